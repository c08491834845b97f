//! Rulesets written by our own messages are what `nft -f` makes of the same rules as text.
//!
//! Each test runs in network namespaces of its own; it needs root and the `nft` program.
#![expect(
    clippy::disallowed_methods,
    reason = "nft is the reference that we compare with"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kernel::nftables::{
    Assignment, BaseChain, Chain, CmpOp, Connection, CtField, DataType, Datum, Direction, DynsetOp,
    Element, Error, Family, FibKey, FibResult, Field, Hook, LimitUnit, Monitor, NatKind, NatTarget,
    NumgenMode, Op, Policy, Reject, Right, Rule, Set, SetRef, Source, Statement, Table,
    Transaction, Verdict, Version, ct_state, ct_status, protocol,
};
use nix::sched::{CloneFlags, unshare};

/// Runs in a network namespace of its own, which ends with the thread.
fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        body()
    })
    .join()
    .expect("the test's thread ends by itself")
}

fn nft(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    use std::io::Write as _;
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft refused:\n{input}\n{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The ruleset as `nft` prints it; without the names of interfaces' numbers and the like.
fn listing() -> String {
    nft(&["list", "ruleset"], "")
}

/// Writes the transaction by netlink and by `nft -f`, and compares what is there then.
fn check_same(transaction: Transaction) -> String {
    let text = transaction.to_string();
    let by_netlink = in_namespace(move || {
        let mut connection = Connection::open().expect("netlink");
        connection.apply(&transaction).expect("the kernel takes it");
        listing()
    });
    let input = text.clone();
    let by_nft = in_namespace(move || {
        nft(&["-f", "-"], &input);
        listing()
    });
    assert_eq!(by_netlink, by_nft, "from:\n{text}");
    by_netlink
}

fn table(family: Family) -> Table {
    Table::new(family, "t")
}

/// A transaction with a table and one rule in a chain that is called from a hook.
fn with_rule(family: Family, base: BaseChain, body: Vec<Statement>) -> Transaction {
    let table = table(family);
    let mut transaction = Transaction::new();
    transaction
        .add_table(&table)
        .add_chain(Chain::new(&table, "other"))
        .add_chain(Chain::new(&table, "c").base(base))
        .add_rule(Rule::new(&table, "c", body).comment("a rule of the test"));
    transaction
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

fn forward() -> BaseChain {
    BaseChain::filter(Hook::Forward, 0)
}

#[test]
fn chains_have_their_hooks_priorities_policies_and_comments() {
    let listing = check_same({
        let table = table(Family::Inet);
        let mut transaction = Transaction::new();
        transaction
            .add_table(&table)
            .add_chain(Chain::new(&table, "in").base(BaseChain::filter(Hook::Input, -5)))
            .add_chain(
                Chain::new(&table, "fw")
                    .base(forward().policy(Policy::Drop))
                    .comment("everything else"),
            )
            .add_chain(Chain::new(&table, "nat").base(BaseChain::nat(Hook::Prerouting, -100)))
            .add_chain(Chain::new(&table, "plain").comment("jumped to"));
        transaction
    });
    assert!(listing.contains("type filter hook forward priority filter; policy drop;"));
    assert!(listing.contains("comment \"jumped to\""));
}

#[test]
fn matches_on_addresses_ports_and_states_read_back_as_written() {
    let net = "10.1.0.0/16".parse().expect("a network");
    let host: ipnetwork::IpNetwork = "10.1.2.3/32".parse().expect("a network");
    let net6 = "fd00:1::/64".parse().expect("a network");
    for body in [
        vec![
            Statement::saddr(net),
            Statement::ne(Field::daddr(false), host),
            Statement::Counter,
        ],
        vec![Statement::saddr(net6), Statement::accept()],
        vec![
            Statement::protocol(protocol::TCP),
            Statement::dport(80),
            Statement::drop(),
        ],
        vec![
            Statement::protocol(protocol::UDP),
            Statement::eq(
                Field::Dport,
                Right::Range(Datum::Port(1000), Datum::Port(2000)),
            ),
            Statement::accept(),
        ],
        vec![
            Statement::ct_state(ct_state::ESTABLISHED | ct_state::RELATED),
            Statement::accept(),
        ],
        vec![Statement::ct_status(ct_status::DNAT), Statement::accept()],
        vec![
            Statement::mark(0x4000, 0x4000),
            Statement::clear_mark(0x4000),
            Statement::accept(),
        ],
        vec![
            Statement::iifname("fl0123"),
            Statement::oifname("eth0"),
            Statement::accept(),
        ],
        vec![
            Statement::eq(Field::Iifname, Right::NamePrefix("fl".into())),
            Statement::goto("other"),
        ],
        vec![
            Statement::eq(Field::IcmpType, Datum::Byte(8)),
            Statement::accept(),
        ],
        vec![
            Statement::protocol(protocol::TCP),
            Statement::eq(
                Field::Ct(CtField::Daddr(Direction::Original, Version::V4)),
                Datum::from(v4(1, 2, 3, 4)),
            ),
            Statement::eq(
                Field::Ct(CtField::ProtoDst(Direction::Original)),
                Datum::Port(8080),
            ),
            Statement::accept(),
        ],
        vec![
            Statement::eq(Field::Ct(CtField::Direction), Datum::CtDirection(1)),
            Statement::accept(),
        ],
        vec![
            Statement::eq(
                Field::Fib(vec![FibKey::Daddr], FibResult::Type),
                Datum::AddressType(2),
            ),
            Statement::accept(),
        ],
        vec![
            Statement::eq(
                Field::Fib(vec![FibKey::Saddr, FibKey::Iif], FibResult::Present),
                Datum::Present(false),
            ),
            Statement::drop(),
        ],
    ] {
        check_same(with_rule(
            Family::Inet,
            BaseChain::filter(Hook::Prerouting, 0),
            body,
        ));
    }
}

#[test]
fn actions_read_back_as_written() {
    let address: IpAddr = v4(10, 0, 0, 9).into();
    let address6: IpAddr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9).into();
    let tcp = || Statement::protocol(protocol::TCP);
    for (base, body) in [
        (forward(), vec![Statement::Notrack]),
        (
            forward(),
            vec![Statement::nflog(7, "denied: "), Statement::drop()],
        ),
        (
            forward(),
            vec![
                Statement::Limit {
                    rate: 10,
                    unit: LimitUnit::Second,
                    burst: 5,
                    over: true,
                },
                Statement::drop(),
            ],
        ),
        (forward(), vec![tcp(), Statement::Reject(Reject::TcpReset)]),
        (forward(), vec![Statement::Reject(Reject::Icmpx(3))]),
        (forward(), vec![Statement::or_mark(0x4000)]),
        (
            forward(),
            vec![Statement::Assign {
                target: Assignment::CtMark,
                source: Source::Field(Field::Mark),
            }],
        ),
        (
            forward(),
            vec![
                Statement::eq(
                    Field::TcpFlags,
                    Right::Masked {
                        mask: Datum::TcpFlags(6),
                        value: Datum::TcpFlags(2),
                    },
                ),
                Statement::ClampMss,
            ],
        ),
        (
            BaseChain::nat(Hook::Prerouting, -100),
            vec![tcp(), Statement::dnat(address, Some(80))],
        ),
        (
            BaseChain::nat(Hook::Prerouting, -100),
            vec![tcp(), Statement::dnat(address6, Some(80))],
        ),
        (
            BaseChain::nat(Hook::Prerouting, -100),
            vec![Statement::dnat(address, None)],
        ),
        (
            BaseChain::nat(Hook::Prerouting, -100),
            vec![tcp(), Statement::Redirect { port: Some(81) }],
        ),
        (
            BaseChain::nat(Hook::Postrouting, 100),
            vec![Statement::snat(address)],
        ),
        (
            BaseChain::nat(Hook::Postrouting, 100),
            vec![Statement::Masquerade { fully_random: true }],
        ),
        (
            BaseChain::nat(Hook::Postrouting, 100),
            vec![Statement::Masquerade {
                fully_random: false,
            }],
        ),
    ] {
        check_same(with_rule(Family::Inet, base, body));
    }
}

#[test]
fn named_sets_and_maps_hold_their_elements() {
    let table = table(Family::Ip);
    let mut transaction = Transaction::new();
    transaction
        .add_table(&table)
        .add_chain(Chain::new(&table, "svc"));
    let hosts = Arc::new(Set::new(&table, "hosts", [DataType::Ipv4Addr]).comment("some hosts"));
    let nets = Arc::new(Set::new(&table, "nets", [DataType::Ipv4Addr]).interval());
    let pairs =
        Arc::new(Set::new(&table, "pairs", [DataType::Ipv4Addr, DataType::InetService]).interval());
    let key = [
        DataType::Ipv4Addr,
        DataType::InetProto,
        DataType::InetService,
    ];
    let services = Arc::new(Set::verdict_map(&table, "services", key));
    let data = [DataType::Ipv4Addr, DataType::InetService];
    let key = [
        DataType::Ipv4Addr,
        DataType::InetProto,
        DataType::InetService,
        DataType::Number,
    ];
    let ends = Arc::new(Set::map(&table, "ends", key, data));
    let names = Arc::new(Set::new(&table, "names", [DataType::Ifname]));
    let recent =
        Arc::new(Set::new(&table, "recent", [DataType::Ipv4Addr]).dynamic(Duration::from_secs(90)));
    for set in [&hosts, &nets, &pairs, &services, &ends, &names, &recent] {
        transaction.add_set(set);
    }
    let service = [
        Datum::from(v4(10, 96, 0, 1)),
        Datum::Proto(6),
        Datum::Port(443),
    ];
    transaction
        .add_elements(
            &hosts,
            vec![Element::new(v4(1, 1, 1, 1)), Element::new(v4(2, 2, 2, 2))],
        )
        .add_elements(
            &nets,
            vec![
                Element::network("10.0.0.0/8".parse().expect("a network")),
                Element::range(v4(11, 0, 0, 5), v4(11, 0, 0, 7)),
                Element::new(v4(12, 0, 0, 1)),
                Element::network("255.0.0.0/8".parse().expect("a network")),
            ],
        )
        .add_elements(
            &pairs,
            vec![Element::range(
                [Datum::from(v4(10, 0, 0, 0)), Datum::Port(80)],
                [Datum::from(v4(10, 0, 0, 255)), Datum::Port(90)],
            )],
        )
        .add_elements(
            &services,
            vec![Element::new(service.clone()).verdict(Verdict::Goto("svc".into()))],
        )
        .add_elements(
            &ends,
            (0..2u8)
                .map(|i| {
                    let [a, b, c] = service.clone();
                    Element::new([a, b, c, Datum::Number(u32::from(i))])
                        .value([Datum::from(v4(10, 0, 0, i)), Datum::Port(8443)])
                })
                .collect(),
        )
        .add_elements(&names, vec![Element::new(Datum::Ifname("eth0".into()))]);
    let daddr = || vec![Field::daddr(false), Field::L4Proto, Field::Dport];
    let pick = Field::Numgen {
        mode: NumgenMode::Random,
        modulus: 2,
        offset: 0,
    };
    let mut key = daddr();
    key.push(pick);
    let target = NatTarget::Map {
        key,
        map: SetRef::named("ends"),
        port: true,
    };
    let update = Statement::Dynset {
        op: DynsetOp::Update,
        set: "recent".into(),
        key: vec![Field::saddr(false)],
        timeout: None,
    };
    let tcp = Statement::protocol(protocol::TCP);
    transaction
        .add_chain(Chain::new(&table, "pre").base(BaseChain::nat(Hook::Prerouting, -100)))
        .add_rule(Rule::new(
            &table,
            "pre",
            vec![
                Statement::is_in([Field::saddr(false)], "nets"),
                Statement::vmap(daddr(), "services"),
            ],
        ))
        .add_rule(Rule::new(
            &table,
            "svc",
            vec![
                Statement::not_in([Field::saddr(false)], "hosts"),
                update,
                tcp,
                Statement::Nat {
                    kind: NatKind::Dnat,
                    v6: false,
                    target,
                },
            ],
        ));
    let text = transaction.to_string();
    let by_netlink = in_namespace(move || {
        let mut connection = Connection::open().expect("netlink");
        connection.apply(&transaction).expect("the kernel takes it");
        let found = connection.elements(&ends.table, "ends").expect("a listing");
        assert_eq!(found.len(), 2);
        let key = found[0].decode(&ends.key).expect("a key");
        assert_eq!(key.0[0], Datum::from(v4(10, 96, 0, 1)));
        let sets = connection.sets(&ends.table).expect("a listing");
        assert_eq!(sets.len(), 7);
        let rules = connection.rules(&ends.table, None).expect("a listing");
        assert_eq!(rules.len(), 2);
        listing()
    });
    let by_nft = in_namespace(move || {
        nft(&["-f", "-"], &text);
        listing()
    });
    // Elements of hashed sets come in any order.
    let sorted = |listing: &str| {
        let mut lines: Vec<String> = listing
            .replace("elements = {", "elements = {\n")
            .replace('}', "\n}")
            .split(['\n', ','])
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&by_netlink), sorted(&by_nft), "{by_netlink}");
}

#[test]
fn sets_that_belong_to_a_rule_read_back_as_written() {
    let pick = Field::Numgen {
        mode: NumgenMode::Random,
        modulus: 2,
        offset: 0,
    };
    let verdicts = vec![
        Element::new(Datum::Number(0)).verdict(Verdict::Goto("other".into())),
        Element::new(Datum::Number(1)).verdict(Verdict::Drop),
    ];
    let hash = Field::Jhash {
        of: vec![Field::saddr(false), Field::daddr(false)],
        modulus: 2,
        seed: Some(0xbeef),
        offset: 0,
    };
    for body in [
        vec![
            Statement::one_of(
                [Field::L4Proto],
                vec![
                    Element::new(Datum::Proto(6)),
                    Element::new(Datum::Proto(17)),
                ],
            ),
            Statement::accept(),
        ],
        vec![
            Statement::one_of(
                [Field::saddr(false)],
                vec![
                    Element::network("10.0.0.0/8".parse().expect("a network")),
                    Element::network("192.168.0.0/16".parse().expect("a network")),
                ],
            ),
            Statement::accept(),
        ],
        vec![Statement::VerdictMap {
            key: vec![pick],
            map: SetRef::Anonymous {
                elements: verdicts.clone(),
            },
        }],
        vec![Statement::VerdictMap {
            key: vec![hash],
            map: SetRef::Anonymous { elements: verdicts },
        }],
    ] {
        check_same(with_rule(Family::Ip, forward(), body));
    }
}

#[test]
fn a_refused_operation_is_named_and_nothing_of_the_batch_remains() {
    in_namespace(|| {
        let mut connection = Connection::open().expect("netlink");
        let table = table(Family::Ip);
        let mut transaction = Transaction::new();
        transaction
            .add_table(&table)
            .add_chain(Chain::new(&table, "c"))
            .add_rule(Rule::new(&table, "c", vec![Statement::jump("nowhere")]))
            .add_chain(Chain::new(&table, "d"));
        let Err(Error::Rejected(failures)) = connection.apply(&transaction) else {
            panic!("a jump to a chain that is not there must be refused");
        };
        assert_eq!(failures[0].operation, Some(2));
        assert!(
            failures[0].object.contains("jump nowhere"),
            "{}",
            failures[0]
        );
        assert!(connection.tables().expect("a listing").is_empty());
        // The connection goes on working.
        transaction.ops.remove(2);
        connection.apply(&transaction).expect("the rest is right");
        assert_eq!(connection.chains(&table).expect("a listing").len(), 2);
    });
}

#[test]
fn chains_rules_and_elements_are_replaced_and_deleted() {
    in_namespace(|| {
        let mut connection = Connection::open().expect("netlink");
        let table = table(Family::Inet);
        let set = Arc::new(Set::new(&table, "s", [DataType::Ipv4Addr]).interval());
        let mut transaction = Transaction::new();
        let rule = Rule::new(&table, "c", vec![Statement::Counter]).comment("one");
        transaction
            .reset_table(&table)
            .add_chain(Chain::new(&table, "c"))
            .add_rule(rule)
            .add_set(&set)
            .add_elements(
                &set,
                vec![Element::network("10.0.0.0/8".parse().expect("a network"))],
            );
        connection.apply(&transaction).expect("made");
        let rules = connection.rules(&table, Some("c")).expect("a listing");
        assert_eq!(rules[0].comment.as_deref(), Some("one"));
        assert_eq!(rules[0].counter, Some((0, 0)));
        let generation = connection.generation().expect("a number");

        let mut transaction = Transaction::new();
        let rule = Rule::new(&table, "c", vec![Statement::accept()]).comment("two");
        transaction
            .push(Op::ReplaceRule {
                handle: rules[0].handle,
                rule,
            })
            .delete_elements(
                &set,
                vec![Element::network("10.0.0.0/8".parse().expect("net"))],
            )
            .push(Op::InsertRule(
                Rule::new(&table, "c", vec![Statement::drop()]).comment("zero"),
            ));
        connection.apply(&transaction).expect("changed");
        let comments: Vec<_> = connection
            .rules(&table, None)
            .expect("a listing")
            .into_iter()
            .filter_map(|rule| rule.comment)
            .collect();
        assert_eq!(comments, ["zero", "two"]);
        assert!(
            connection
                .elements(&table, "s")
                .expect("a listing")
                .is_empty()
        );
        assert!(connection.generation().expect("a number") > generation);

        let mut transaction = Transaction::new();
        transaction.delete_chain(&table, "c").delete_set(&set);
        connection.apply(&transaction).expect("deleted");
        transaction = Transaction::new();
        transaction.remove_table(&table);
        connection.apply(&transaction).expect("deleted");
        connection
            .apply(&transaction)
            .expect("deleting what is not there is fine");
        assert!(connection.tables().expect("a listing").is_empty());
    });
}

#[test]
fn a_batch_of_a_hundred_thousand_elements_is_one_transaction() {
    in_namespace(|| {
        let mut connection = Connection::open().expect("netlink");
        let table = table(Family::Ip);
        let key = [
            DataType::Ipv4Addr,
            DataType::InetProto,
            DataType::InetService,
        ];
        let set = Arc::new(Set::verdict_map(&table, "m", key));
        let elements: Vec<Element> = (0..100_000u32)
            .map(|i| {
                let key = [
                    Datum::V4((0x0a00_0000 + i).into()),
                    Datum::Proto(6),
                    Datum::Port(80),
                ];
                Element::new(key).verdict(Verdict::Drop)
            })
            .collect();
        let mut transaction = Transaction::new();
        transaction
            .add_table(&table)
            .add_set(&set)
            .add_elements(&set, elements);
        connection.apply(&transaction).expect("the kernel takes it");
        assert_eq!(
            connection.elements(&table, "m").expect("a listing").len(),
            100_000
        );
    });
}

#[test]
fn a_monitor_tells_which_tables_somebody_changed() {
    in_namespace(|| {
        let mut monitor = Monitor::open().expect("netlink");
        assert!(monitor.changes().expect("none yet").is_empty());
        nft(&["add", "table", "inet", "foreign"], "");
        let notices = monitor.changes().expect("notices");
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].program.as_deref(), Some("nft"));
        assert_eq!(
            notices[0].tables,
            Some(vec![Table::new(Family::Inet, "foreign")])
        );
        assert_ne!(notices[0].pid, Some(std::process::id()));
    });
}

#[test]
fn comparisons_of_numbers_read_back_as_written() {
    let body = vec![
        Statement::protocol(protocol::TCP),
        Statement::Match {
            field: Field::Dport,
            op: CmpOp::Ge,
            right: Datum::Port(1024).into(),
        },
        Statement::accept(),
    ];
    check_same(with_rule(Family::Ip6, forward(), body));
}
