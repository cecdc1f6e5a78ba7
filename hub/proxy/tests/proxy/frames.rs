//! HTTP/2 by hand: a client that sends what no library would.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{LONG, Rig};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields without compression (RFC 7541, section 6.2.2).
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer ones need another form");
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A connection after the prefaces.
pub(crate) struct RawHttp2(pub(crate) TcpStream);

impl RawHttp2 {
    /// Connects; `window` is what each stream may be sent before it says more.
    pub(crate) async fn open(rig: &Rig, window: u32) -> Self {
        let mut stream = rig.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
        Self(stream)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// The fields of a request that is admitted.
    pub(crate) fn request(rig: &Rig, method: &str, path: &str) -> Vec<u8> {
        let token = rig.token.expose_text();
        fields(&[
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "hub"),
            ("authorization", &format!("Bearer {}", token.expose())),
            ("x-service-id", "7/42"),
        ])
    }

    /// The next frame; `None` once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = tokio::time::timeout(LONG, self.0.read_exact(&mut head)).await;
        read.unwrap().ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Sends `bytes` over and over; how often until the connection ends, at most `most`.
    pub(crate) async fn flood(&mut self, most: usize, mut bytes: impl FnMut(usize) -> Vec<u8>) -> usize {
        let (mut reader, mut writer) = self.0.split();
        let write = async {
            for round in 0..most {
                if writer.write_all(&bytes(round)).await.is_err() {
                    return round;
                }
                tokio::task::yield_now().await;
            }
            // What is on its way may still be the last straw.
            tokio::time::sleep(Duration::from_millis(500)).await;
            most
        };
        let read = async {
            let mut sink = [0; 4096];
            while let Ok(1..) = reader.read(&mut sink).await {}
        };
        tokio::pin!(write, read);
        let mut ended = false;
        loop {
            tokio::select! {
                rounds = &mut write => return if ended { rounds.min(most - 1) } else { rounds },
                () = &mut read, if !ended => ended = true,
            }
        }
    }
}
