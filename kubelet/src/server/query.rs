//! Parameters of requests.

use std::time::Duration;

use axum::http::Uri;
use cri::v1::{AttachRequest, ExecRequest};
use jiff::{SignedDuration, Timestamp};

use crate::logs::{Options, Stream};

/// The parameters of a query, in order; a name may come several times.
pub(super) fn parameters(uri: &Uri) -> Vec<(String, String)> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%').then(|| tail.get(..2)).flatten();
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(decoded)) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            (b'+', None) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, None) => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn is_true(parameters: &[(String, String)], names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| matches!(get(parameters, name), Some("1" | "true" | "True")))
}

/// The parameters of a request for a log.
pub(super) struct LogQuery {
    pub(super) options: Options,
    pub(super) previous: bool,
}

pub(super) fn log_query(uri: &Uri, now: Timestamp) -> Result<LogQuery, String> {
    let parameters = parameters(uri);
    let number = |name: &str| -> Result<Option<u64>, String> {
        let text = get(&parameters, name).filter(|text| !text.is_empty() && *text != "all");
        text.map(|text| text.parse().map_err(|_| format!("invalid {name}: {text}")))
            .transpose()
    };
    let since = match (number("sinceSeconds")?, get(&parameters, "sinceTime")) {
        (Some(_), Some(_)) => {
            return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
        }
        (Some(0), _) => return Err("invalid sinceSeconds: must be greater than 0".to_owned()),
        (Some(seconds), _) => {
            let ago = SignedDuration::try_from(Duration::from_secs(seconds.min(1 << 32)));
            ago.ok().map(|ago| now - ago)
        }
        (None, Some(text)) => Some(
            text.parse()
                .map_err(|_| format!("invalid sinceTime: {text}"))?,
        ),
        (None, None) => None,
    };
    let stream = match get(&parameters, "stream") {
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        _ => None,
    };
    if number("limitBytes")? == Some(0) {
        return Err("invalid limitBytes: must be greater than 0".to_owned());
    }
    Ok(LogQuery {
        options: Options {
            follow: is_true(&parameters, &["follow"]),
            tail: number("tailLines")?,
            since,
            timestamps: is_true(&parameters, &["timestamps"]),
            limit_bytes: number("limitBytes")?,
            stream,
        },
        previous: is_true(&parameters, &["previous"]),
    })
}

/// What to run in a container. At least one stream is wanted.
pub(super) fn exec_request(uri: &Uri, container_id: &str) -> Result<ExecRequest, String> {
    let parameters = parameters(uri);
    let cmd: Vec<String> = parameters
        .iter()
        .filter(|(name, _)| name == "command")
        .map(|(_, value)| value.clone())
        .collect();
    let tty = is_true(&parameters, &["tty"]);
    let request = ExecRequest {
        container_id: container_id.to_owned(),
        cmd,
        tty,
        stdin: is_true(&parameters, &["input", "stdin"]),
        stdout: is_true(&parameters, &["output", "stdout"]),
        // A terminal has one output.
        stderr: is_true(&parameters, &["error", "stderr"]) && !tty,
    };
    if request.stdin || request.stdout || request.stderr {
        Ok(request)
    } else {
        Err("you must specify at least 1 of stdin, stdout, stderr".to_owned())
    }
}

pub(super) fn attach_request(uri: &Uri, container_id: &str) -> Result<AttachRequest, String> {
    let ExecRequest {
        container_id,
        tty,
        stdin,
        stdout,
        stderr,
        ..
    } = exec_request(uri, container_id)?;
    Ok(AttachRequest {
        container_id,
        stdin,
        tty,
        stdout,
        stderr,
    })
}

/// The ports of a request to forward, as older clients name them.
pub(super) fn ports(uri: &Uri) -> Vec<i32> {
    parameters(uri)
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "port" | "ports"))
        .flat_map(|(_, value)| {
            value
                .split(',')
                .filter_map(|port| port.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn uri(query: &str) -> Uri {
        format!("/x?{query}").parse().unwrap()
    }

    #[test]
    fn log_parameters_are_read_and_checked() {
        let query = log_query(
            &uri("tailLines=5&sinceSeconds=10&follow=true&limitBytes=7"),
            at(100),
        )
        .unwrap();
        assert_eq!(query.options.tail, Some(5));
        assert_eq!(query.options.since, Some(at(90)));
        assert_eq!(query.options.limit_bytes, Some(7));
        assert!(query.options.follow && !query.previous);
        for wrong in [
            "tailLines=x",
            "sinceTime=yesterday",
            "sinceSeconds=0",
            "limitBytes=-1",
        ] {
            assert!(log_query(&uri(wrong), at(0)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commands_keep_their_words() {
        let request = exec_request(
            &uri("command=sh&command=-c&command=echo%20a%2Bb+c&output=1&error=1&tty=1"),
            "c",
        );
        let request = request.unwrap();
        assert_eq!(request.cmd, ["sh", "-c", "echo a+b c"]);
        assert!(request.tty && request.stdout && !request.stderr);
        assert!(exec_request(&uri("command=sh"), "c").is_err());
    }
}
