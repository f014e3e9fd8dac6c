use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// Lets everything pass.
struct Everything;

impl Overseer for Everything {
    const ENDS_EARLY: bool = true;

    fn oversee(&self, _: &mut Request<Incoming>) -> Result<(), Objection> {
        Ok(())
    }

    fn see_answer(&self, _: &mut Response<Incoming>) {}

    fn may_follow(&self, _: &Shown) -> bool {
        true
    }

    fn tell(&self, _: NetworkEvent, _: String) {}
}

/// What a server hears of this request, and the client of this answer; both without regard for case.
async fn exchanged(request: &str, answer: &'static str) -> (String, String) {
    let ((mut client, inside), (outside, mut server)) = (duplex(16 << 10), duplex(16 << 10));
    let run = tokio::spawn(Exchange::new(Everything, Buffers::SMALL).run(Box::new(inside), Box::new(outside), false));
    let serving = tokio::spawn(async move {
        let mut heard = Vec::new();
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(server.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
        }
        server.write_all(answer.as_bytes()).await.unwrap();
        server.shutdown().await.unwrap();
        server.read_to_end(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap().to_ascii_lowercase()
    });
    client.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    drop(client);
    // That a client goes is no failure, and what became of the server's side is not what is asked here.
    let _ = run.await.unwrap();
    (serving.await.unwrap(), said.to_ascii_lowercase())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn an_answer_that_says_its_length_twice_goes_in_with_the_one_that_counts() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 700\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let (_, said) = exchanged(GET, answer).await;
        assert!(said.starts_with("http/1.1 200 ok\r\n") && !said.contains("content-length"), "{said}");
        assert!(said.contains("transfer-encoding: chunked") && said.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{said}");
    }
}

#[tokio::test]
async fn an_answer_of_two_lengths_does_not_go_in() {
    let (_, said) = exchanged(GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_request_that_says_its_length_twice_has_one_reading() {
    const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for lengths in ["Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length: 4\r\nTransfer-Encoding: chunked"] {
        // To who goes by the latter, what follows four bytes is another request.
        let smuggled = "1c\r\nGET / HTTP/1.1\r\nHost: b.test\r\n0\r\n\r\n";
        let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lengths}\r\n\r\n{smuggled}");
        let (heard, _) = exchanged(&request, DONE).await;
        assert!(heard.contains("transfer-encoding: chunked") && !heard.contains("content-length"), "{heard}");
    }
}
