//! An HTTP server whose answers a test holds back: a step that asks it is under way for as long as the test wants.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Gates by the path that they answer on. Closed at first; once open, they answer at once.
#[derive(Debug, Clone)]
pub(super) struct Gates {
    address: String,
    gates: Arc<Mutex<BTreeMap<String, watch::Sender<Gate>>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    /// Requests that came so far.
    asked: u32,
    /// The status that it answers with.
    open: Option<u16>,
}

// === impl Gates ===

impl Gates {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let gates = Self {
            address,
            gates: Arc::default(),
        };
        let all = gates.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let all = all.clone();
                // A caller that has left is no failure of the gate.
                tokio::spawn(async move { all.answer(stream).await.ok() });
            }
        });
        gates
    }

    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Answers those who wait, and all who come, with this status.
    pub(super) fn open(&self, name: &str, status: u16) {
        self.gate(name).send_modify(|gate| gate.open = Some(status));
    }

    /// Waits until somebody has asked.
    pub(super) async fn asked(&self, name: &str) {
        let mut gate = self.gate(name).subscribe();
        let asked = gate.wait_for(|gate| gate.asked > 0);
        let asked = tokio::time::timeout(std::time::Duration::from_secs(20), asked).await;
        assert!(asked.is_ok(), "nobody asked {name} within 20 s");
    }

    fn gate(&self, name: &str) -> watch::Sender<Gate> {
        let mut gates = self.gates.lock().expect("no panic");
        gates.entry(name.to_owned()).or_default().clone()
    }

    async fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut first = String::new();
        stream.read_line(&mut first).await?;
        let path = first.split(' ').nth(1).unwrap_or("/");
        let gate = self.gate(path.trim_start_matches('/'));
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        gate.send_modify(|gate| gate.asked += 1);
        let mut opened = gate.subscribe();
        let Ok(opened) = opened
            .wait_for(|gate| gate.open.is_some())
            .await
            .map(|gate| *gate)
        else {
            return Ok(());
        };
        let status = opened.open.unwrap_or(200);
        let answer = format!(
            "HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        );
        stream.get_mut().write_all(answer.as_bytes()).await?;
        stream.get_mut().shutdown().await
    }
}
