//! The command line.

use std::time::Duration;

/// What the program was asked to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Serve(Serve),
    Get {
        url: String,
        timeout: Duration,
        count: u32,
    },
    Load {
        url: String,
        duration: Option<Duration>,
        rate: u32,
    },
    Dial {
        protocol: Protocol,
        target: String,
        request: String,
        timeout: Duration,
    },
    Hold {
        target: String,
        duration: Option<Duration>,
    },
    Resolve {
        name: String,
    },
    Sleep {
        duration: Option<Duration>,
    },
    Exit {
        code: u8,
        after: Duration,
    },
    Write {
        file: String,
        text: String,
    },
    Read {
        file: String,
    },
    Burn {
        mebibytes: usize,
    },
}

#[derive(Debug, PartialEq)]
pub(crate) struct Serve {
    pub(crate) http: Vec<u16>,
    pub(crate) tcp: Vec<u16>,
    pub(crate) udp: Vec<u16>,
    pub(crate) sctp: Vec<u16>,
    /// `/readyz` fails for this long.
    pub(crate) delay_ready: Duration,
    /// How long the server goes on after SIGTERM.
    pub(crate) shutdown_delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Http,
}

impl Protocol {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            "http" | "" => Ok(Self::Http),
            other => Err(format!(
                "unknown protocol {other:?}: one of tcp, udp, sctp, http"
            )),
        }
    }
}

/// Positional arguments and `--name value` or `--name=value` options, in any order.
struct Arguments {
    positional: Vec<String>,
    options: Vec<(String, String)>,
}

impl Arguments {
    fn split(arguments: &[String]) -> Result<Self, String> {
        let mut split = Self {
            positional: Vec::new(),
            options: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(option) = argument.strip_prefix("--") else {
                split.positional.push(argument.clone());
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => {
                    let value = rest.next().ok_or(format!("--{option} needs a value"))?;
                    (option.to_owned(), value.clone())
                }
            };
            split.options.push((name, value));
        }
        Ok(split)
    }

    fn option(&mut self, name: &str) -> Option<String> {
        let index = self.options.iter().position(|(known, _)| known == name)?;
        Some(self.options.remove(index).1)
    }

    fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<Option<N>, String> {
        self.option(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| format!("--{name} {text}: not a number"))
            })
            .transpose()
    }

    fn seconds(&mut self, name: &str) -> Result<Option<Duration>, String> {
        self.number::<f64>(name)?.map(duration).transpose()
    }

    fn ports(&mut self, name: &str, default: &[u16]) -> Result<Vec<u16>, String> {
        let Some(text) = self.option(name) else {
            return Ok(default.to_vec());
        };
        text.split(',')
            .filter(|port| !port.is_empty() && *port != "-1" && *port != "0")
            .map(|port| {
                port.parse()
                    .map_err(|_| format!("--{name} {port}: not a port"))
            })
            .collect()
    }

    fn positional(&mut self, what: &str) -> Result<String, String> {
        self.optional().ok_or(format!("{what} is missing"))
    }

    fn optional(&mut self) -> Option<String> {
        (!self.positional.is_empty()).then(|| self.positional.remove(0))
    }

    fn nothing_left(self) -> Result<(), String> {
        match (self.options.first(), self.positional.first()) {
            (Some((name, _)), _) => Err(format!("unknown option --{name}")),
            (None, Some(argument)) => Err(format!("unexpected argument {argument:?}")),
            (None, None) => Ok(()),
        }
    }
}

fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds}: not a duration"))
}

fn parse_seconds(text: Option<String>) -> Result<Option<Duration>, String> {
    text.map(|text| {
        text.parse()
            .map_err(|_| format!("{text}: not a number of seconds"))
            .and_then(duration)
    })
    .transpose()
}

/// Without arguments the program serves on its default ports.
pub(crate) fn parse(arguments: &[String]) -> Result<Command, String> {
    let mut rest = Arguments::split(arguments)?;
    let verb = rest.optional().unwrap_or_else(|| "serve".to_owned());
    let command = match verb.as_str() {
        "serve" | "netexec" => parse_serve(&mut rest)?,
        "get" => Command::Get {
            url: rest.positional("the URL")?,
            timeout: rest.seconds("timeout")?.unwrap_or(Duration::from_secs(5)),
            count: rest.number("count")?.unwrap_or(1),
        },
        "load" => Command::Load {
            url: rest.positional("the URL")?,
            duration: rest.seconds("seconds")?,
            rate: rest.number("rate")?.unwrap_or(50),
        },
        "dial" => Command::Dial {
            protocol: Protocol::parse(&rest.positional("the protocol")?)?,
            target: rest.positional("HOST:PORT")?,
            request: rest.optional().unwrap_or_else(|| "hostname".to_owned()),
            timeout: rest.seconds("timeout")?.unwrap_or(Duration::from_secs(5)),
        },
        "hold" => Command::Hold {
            target: rest.positional("HOST:PORT")?,
            duration: rest.seconds("seconds")?,
        },
        "resolve" => Command::Resolve {
            name: rest.positional("the name")?,
        },
        "sleep" => Command::Sleep {
            duration: parse_seconds(rest.optional())?,
        },
        "exit" => {
            let code = rest.positional("the exit code")?;
            Command::Exit {
                code: code
                    .parse()
                    .map_err(|_| format!("{code}: not an exit code"))?,
                after: parse_seconds(rest.optional())?.unwrap_or_default(),
            }
        }
        "write" => Command::Write {
            file: rest.positional("FILE")?,
            text: rest.positional("TEXT")?,
        },
        "read" => Command::Read {
            file: rest.positional("FILE")?,
        },
        "burn" => {
            let size = rest.positional("MIB")?;
            let mebibytes = size.parse().map_err(|_| format!("{size}: not a number"))?;
            Command::Burn { mebibytes }
        }
        other => return Err(format!("unknown command {other:?}")),
    };
    rest.nothing_left()?;
    Ok(command)
}

fn parse_serve(rest: &mut Arguments) -> Result<Command, String> {
    Ok(Command::Serve(Serve {
        http: rest.ports("http-port", &[8080])?,
        udp: rest.ports("udp-port", &[8081])?,
        tcp: rest.ports("tcp-port", &[8082])?,
        sctp: rest.ports("sctp-port", &[])?,
        delay_ready: rest.seconds("delay-ready")?.unwrap_or_default(),
        shutdown_delay: rest.seconds("shutdown-delay")?.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(
            &line
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn no_arguments_mean_serving_on_the_default_ports() {
        let Ok(Command::Serve(serve)) = parsed("") else {
            panic!("not serve")
        };
        assert_eq!(
            (serve.http, serve.udp, serve.sctp),
            (vec![8080], vec![8081], vec![])
        );
    }

    #[test]
    fn options_may_stand_anywhere_and_carry_lists() {
        let Ok(Command::Serve(serve)) = parsed("serve --http-port=80,81 --udp-port -1") else {
            panic!("not serve")
        };
        assert_eq!((serve.http, serve.udp), (vec![80, 81], vec![]));
        assert_eq!(
            parsed("load --rate 5 http://a/"),
            Ok(Command::Load {
                url: "http://a/".into(),
                duration: None,
                rate: 5
            })
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parsed("get"), Err("the URL is missing".into()));
        assert_eq!(
            parsed("get u --colour red"),
            Err("unknown option --colour".into())
        );
        assert_eq!(parsed("sleep x"), Err("x: not a number of seconds".into()));
    }
}
