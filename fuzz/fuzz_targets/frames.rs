//! Any bytes are frames or an error: nothing panics, nothing over the limits is allocated, and what decodes encodes again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbar_protocol::{Event, Frame, Input, MAX_MESSAGE, PREAMBLE, Preamble, Reply, Request, read_frame, write_frame};

fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    if let Some((preamble, rest)) = bytes.split_first_chunk::<PREAMBLE>() {
        if let Ok(preamble_read) = Preamble::decode(*preamble) {
            assert_eq!(&preamble_read.encode(), preamble);
            stream = rest;
        }
    }
    while let Ok(Some(frame)) = read_frame(&mut stream) {
        assert!(frame.payload.len() <= MAX_MESSAGE);
        let mut again = Vec::new();
        write_frame(&mut again, frame.kind, &frame.payload).expect("a frame that was read can be written");
        let copy = |frame: &Frame| Frame { kind: frame.kind, payload: frame.payload.clone() };
        let _ = copy(&frame).message::<Request>();
        let _ = copy(&frame).message::<Reply>();
        let _ = copy(&frame).message::<Event>();
        let _ = copy(&frame).message::<Input>();
    }
});
