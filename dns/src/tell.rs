//! Tells a listener what is answered, before the client knows it.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::{RData, Record};
use tokio::sync::{mpsc, oneshot};

/// The name that was asked for, its addresses with their time to live, and how the listener says
/// that it is ready.
pub type Answered = (String, Vec<(IpAddr, Duration)>, oneshot::Sender<()>);

/// A client is kept waiting no longer than this for a listener that is busy.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tells the addresses of an answer, which hold as long as every alias on the way to them.
pub(crate) async fn tell(listener: &mpsc::Sender<Answered>, name: &str, answers: &[Record]) {
    let addresses = addresses(answers);
    if addresses.is_empty() {
        return;
    }
    let (ready, done) = oneshot::channel();
    let told = async {
        if listener
            .send((name.to_owned(), addresses, ready))
            .await
            .is_ok()
        {
            // A listener that ends has nothing to wait for.
            let _ = done.await;
        }
    };
    if tokio::time::timeout(PATIENCE, told).await.is_err() {
        tracing::warn!(
            name,
            "an answer is given before what enforces policies is ready for it"
        );
    }
}

fn addresses(answers: &[Record]) -> Vec<(IpAddr, Duration)> {
    let aliases = answers
        .iter()
        .filter(|own| matches!(own.data, RData::CNAME(_)));
    let of_aliases = aliases.map(|own| own.ttl).min().unwrap_or(u32::MAX);
    let found = answers.iter().filter_map(|own| {
        let address: IpAddr = match &own.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => return None,
        };
        let seconds = own.ttl.min(of_aliases);
        Some((address, Duration::from_secs(seconds.into())))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_told_with_the_shortest_time_on_the_way() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let alias = RData::CNAME(CNAME(name("b.example.")));
        let address = RData::A(A([192, 0, 2, 1].into()));
        let answers = [
            Record::from_rdata(name("a.example."), 20, alias),
            Record::from_rdata(name("b.example."), 300, address),
        ];
        let (sender, mut receiver) = mpsc::channel::<Answered>(1);
        let listening = async {
            let (name, addresses, ready) = receiver.recv().await.unwrap();
            ready.send(()).unwrap();
            (name, addresses)
        };
        let ((), told) = tokio::join!(tell(&sender, "a.example", &answers), listening);
        let address: IpAddr = [192, 0, 2, 1].into();
        let expected = vec![(address, Duration::from_secs(20))];
        assert_eq!(told, ("a.example".to_owned(), expected));
    }
}
