use prost::Message;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Error;
use crate::events::events_client::EventsClient;
use crate::events::{Envelope, SubscribeRequest, TaskEvent};

/// The filter of the events that change a container's state. `k8s.io` is the namespace in
/// which containerd keeps what came by CRI.
const FILTERS: [&str; 2] = [
    r#"namespace==k8s.io,topic=="/tasks/exit""#,
    r#"namespace==k8s.io,topic=="/tasks/oom""#,
];

/// Something happened to a container (or to a sandbox's own process).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskNotice {
    pub container_id: String,
}

/// containerd's stream of exits.
pub struct TaskEvents {
    stream: Streaming<Envelope>,
}

impl TaskEvents {
    /// Subscribes. `Unimplemented` from runtimes that are not containerd.
    pub async fn subscribe(channel: Channel) -> Result<Self, Error> {
        let filters = FILTERS.iter().map(|&filter| filter.to_owned()).collect();
        let response = EventsClient::new(channel)
            .subscribe(SubscribeRequest { filters })
            .await
            .map_err(|status| Error::from_status("containerd", "Subscribe", &status))?;
        Ok(Self {
            stream: response.into_inner(),
        })
    }

    /// The next exit of a container's main process; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<TaskNotice> {
        loop {
            let envelope = self.stream.message().await.ok()??;
            if let Some(notice) = notice_of(&envelope) {
                return Some(notice);
            }
        }
    }
}

fn notice_of(envelope: &Envelope) -> Option<TaskNotice> {
    let event = TaskEvent::decode(envelope.event.as_ref()?.value.as_slice()).ok()?;
    let is_exec = envelope.topic == "/tasks/exit" && event.id != event.container_id;
    (!is_exec).then_some(TaskNotice {
        container_id: event.container_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Any;

    fn envelope(topic: &str, container: &str, process: &str) -> Envelope {
        let event = TaskEvent {
            container_id: container.into(),
            id: process.into(),
        };
        Envelope {
            namespace: "k8s.io".into(),
            topic: topic.into(),
            event: Some(Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
        }
    }

    #[test]
    fn an_exec_that_exits_is_no_notice() {
        assert_eq!(notice_of(&envelope("/tasks/exit", "c1", "probe")), None);
        let notice = notice_of(&envelope("/tasks/exit", "c1", "c1"));
        assert_eq!(
            notice,
            Some(TaskNotice {
                container_id: "c1".into()
            })
        );
    }
}
