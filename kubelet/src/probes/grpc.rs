use cri::health::HealthCheckRequest;
use cri::health::health_check_response::ServingStatus;
use cri::health::health_client::HealthClient;
use tonic::transport::Endpoint;

use super::Answer;

/// Asks a server for the health of one of its services.
pub(super) async fn check(host: String, port: u16, service: String) -> Answer {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|error| error.to_string())?;
    let channel = endpoint
        .user_agent("kube-probe/1.36")
        .map_err(|error| error.to_string())?
        .connect()
        .await
        .map_err(|error| format!("failed to connect service \"{host}:{port}\": {error}"))?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service })
        .await
        .map_err(|status| format!("error: health rpc failed: {}", status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(format!(
            "service unhealthy (responded with \"{}\")",
            status.as_str_name()
        )),
    }
}
