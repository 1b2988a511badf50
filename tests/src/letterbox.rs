//! A mail client that puts letters into the daemon's port 25, as fast as it takes them, and knows what was acknowledged.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
};

/// A session with a mail server.
#[derive(Debug)]
pub struct Letterbox {
    stream: BufReader<TcpStream>,
}

/// How a letter fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// 250 after the final dot.
    Taken,
    /// Refused with these words: nothing is owed.
    Refused(String),
}

impl Letterbox {
    /// Connects from this address and says EHLO.
    pub async fn open(from: IpAddr, server: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let mut session = Self {
            stream: BufReader::new(socket.connect(server).await?),
        };
        session.expect("220").await?;
        session.say("EHLO mail.post.test\r\n").await?;
        session.expect("250").await?;
        Ok(session)
    }

    /// Sends a letter. `data` has CRLF line ends and no line that starts with a dot. An error means: nobody knows.
    pub async fn post(&mut self, mail_from: &str, rcpt_to: &str, data: &str) -> Result<Posted> {
        for (command, expected) in [
            (format!("MAIL FROM:<{mail_from}>\r\n"), "250"),
            (format!("RCPT TO:<{rcpt_to}>\r\n"), "250"),
            ("DATA\r\n".to_owned(), "354"),
        ] {
            self.say(&command).await?;
            let reply = self.reply().await?;
            if reply.starts_with("421") {
                return Ok(Posted::Refused(reply));
            }
            if !reply.starts_with(expected) {
                self.say("RSET\r\n").await?;
                self.expect("250").await?;
                return Ok(Posted::Refused(reply));
            }
        }
        self.say(&format!("{data}.\r\n")).await?;
        let reply = self.reply().await?;
        Ok(if reply.starts_with("250") {
            Posted::Taken
        } else {
            Posted::Refused(reply)
        })
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await.context("the server is gone")
    }

    async fn expect(&mut self, code: &str) -> Result<()> {
        let reply = self.reply().await?;
        ensure!(reply.starts_with(code), "{reply} instead of {code}");
        Ok(())
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                bail!("the server has hung up");
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}
