//! Frames over a stream.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::io::Cursor;

use bytes::BytesMut;
use proptest::prelude::*;
use sandbar_protocol::{
    FrameError, FrameKind, FrameReader, FrameWriter, MAX_BULK, MAX_MESSAGE, PREAMBLE, Ping, encode_frame, encode_message, read_frame,
    write_frame,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn the_blocking_and_the_async_side_understand_one_another() {
    runtime().block_on(async {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes);
        writer.message(&Ping {}).await.unwrap();
        writer.bytes(FrameKind::Stdout, &vec![7; MAX_BULK + 1]).await.unwrap();
        writer.end().await.unwrap();
        let mut blocking = Cursor::new(&bytes[PREAMBLE..]);
        let mut reader = FrameReader::new(bytes.as_slice());
        reader.preamble().await.unwrap();
        let mut kinds = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            kinds.push((frame.kind, frame.payload.len()));
            assert_eq!(read_frame(&mut blocking).unwrap(), Some(frame));
        }
        assert_eq!(read_frame(&mut blocking).unwrap(), None);
        assert_eq!(kinds, [(FrameKind::Message, 0), (FrameKind::Stdout, MAX_BULK), (FrameKind::Stdout, 1), (FrameKind::End, 0)]);
    });
}

#[test]
fn what_is_too_long_is_not_written() {
    let mut buffer = BytesMut::new();
    assert!(matches!(encode_frame(&mut buffer, FrameKind::End, b"x"), Err(FrameError::TooLong { .. })));
    assert!(matches!(encode_frame(&mut buffer, FrameKind::Bytes, &vec![0; MAX_BULK + 1]), Err(FrameError::TooLong { .. })));
    let long = sandbar_protocol::Failure { message: "x".repeat(MAX_MESSAGE), ..Default::default() };
    assert!(matches!(encode_message(&mut buffer, &long), Err(FrameError::TooLong { .. })));
    assert!(buffer.is_empty());
    assert!(write_frame(&mut Vec::new(), FrameKind::Bytes, &vec![0; MAX_BULK + 1]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_an_error_and_both_sides_agree(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut blocking = Cursor::new(bytes.as_slice());
        let mut reader = FrameReader::new(bytes.as_slice());
        runtime().block_on(async {
            loop {
                match (reader.next().await, read_frame(&mut blocking)) {
                    (Ok(None), Ok(None)) => break Ok(()),
                    (Ok(first), Ok(second)) => prop_assert_eq!(first, second),
                    (Err(_), Err(_)) => break Ok(()),
                    (first, second) => prop_assert!(false, "{:?} and {:?}", first, second),
                }
            }
        })?;
    }

    #[test]
    fn frames_come_back_however_the_stream_is_cut(sizes in prop::collection::vec(0_usize..3000, 1..10), cut in 1_usize..500) {
        let mut all = BytesMut::new();
        for (index, size) in sizes.iter().enumerate() {
            encode_frame(&mut all, FrameKind::Bytes, &vec![index as u8; *size]).unwrap();
        }
        runtime().block_on(async {
            let (mut client, server) = tokio::io::duplex(cut);
            let mut reader = FrameReader::new(server);
            let write = async move { tokio::io::AsyncWriteExt::write_all(&mut client, &all).await.unwrap() };
            let read = async {
                for (index, size) in sizes.iter().enumerate() {
                    let frame = reader.next().await.unwrap().unwrap();
                    assert_eq!(frame.payload, vec![index as u8; *size]);
                }
                assert!(reader.next().await.unwrap().is_none());
            };
            tokio::join!(write, read);
        });
    }
}
