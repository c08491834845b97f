//! Compression of large answers, for clients that take it.

use std::io::Write;
use std::pin::Pin;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, Stream, StreamExt};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};

use super::{ApiResponse, Body, BoxError};

/// Smaller answers are sent as they are.
const WORTH_IT: usize = 128 << 10;

/// Compresses an answer that is large enough. Only for answers that end: each piece of a watch
/// has to leave at once.
pub fn compress(response: ApiResponse, headers: &HeaderMap) -> ApiResponse {
    let wanted = headers
        .get(ACCEPT_ENCODING)
        .and_then(|e| e.to_str().ok())
        .is_some_and(accepts_gzip);
    let large = match response.body() {
        Body::Full(Some(bytes)) => bytes.len() >= WORTH_IT,
        Body::Stream(_) => true,
        _ => false,
    };
    if !wanted || !large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = match body {
        Body::Full(Some(bytes)) => {
            let mut encoder = encoder();
            // Writing into memory cannot fail.
            let _ = encoder.write_all(&bytes);
            Body::from(encoder.finish().unwrap_or_default())
        }
        Body::Stream(stream) => Body::stream(compressed(stream)),
        other => other,
    };
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts
        .headers
        .append(VARY, HeaderValue::from_static("Accept-Encoding"));
    ApiResponse::from_parts(parts, body)
}

fn accepts_gzip(header: &str) -> bool {
    header.split(',').any(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let refused = |p: &str| matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

fn compressed(pieces: Pieces) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::unfold(Some((pieces, encoder())), |state| async move {
        let (mut pieces, mut encoder) = state?;
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Some((Err(error), None)),
            };
            if let Err(error) = encoder.write_all(&piece) {
                return Some((Err(error.into()), None));
            }
            let made = std::mem::take(encoder.get_mut());
            if !made.is_empty() {
                return Some((Ok(Bytes::from(made)), Some((pieces, encoder))));
            }
        }
        let last = encoder.finish().map(Bytes::from);
        Some((last.map_err(Into::into), None))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    async fn decompressed(response: ApiResponse) -> Vec<u8> {
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let sent = response.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&sent[..])
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }

    #[tokio::test]
    async fn large_answers_are_compressed_whole_or_in_pieces() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("br, gzip"));
        let text = "abcdefgh".repeat(WORTH_IT / 4);
        let whole = super::super::json(200, text.clone());
        assert_eq!(
            decompressed(compress(whole, &headers)).await,
            text.as_bytes()
        );
        let piece = Bytes::from(text.clone());
        let pieces = vec![Ok(piece.slice(..1000)), Ok(piece.slice(1000..))];
        let body = Body::stream(stream::iter(pieces));
        let streamed = super::super::with_type(200, "application/json", body);
        assert_eq!(
            decompressed(compress(streamed, &headers)).await,
            text.as_bytes()
        );
    }

    #[test]
    fn small_answers_and_unwilling_clients_get_plain_ones() {
        let plain = |headers: &HeaderMap, size: usize| {
            let answer = compress(super::super::json(200, vec![b' '; size]), headers);
            !answer.headers().contains_key(CONTENT_ENCODING)
        };
        let mut headers = HeaderMap::new();
        assert!(plain(&headers, 2 * WORTH_IT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(plain(&headers, 100));
        assert!(!plain(&headers, 2 * WORTH_IT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip;q=0, br"));
        assert!(plain(&headers, 2 * WORTH_IT));
    }
}
