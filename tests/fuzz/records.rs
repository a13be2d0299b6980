//! Decodes any bytes as each record that stands in Consul or on disk: the first line names the record.
//!
//! A record that decodes is written as the same bytes by whoever reads it once more.
#![no_main]

use cutover::protocol::journal::Journal;
use cutover::protocol::record::{
    Abort, Ack, Action, ActionCursor, Archive, Attestation, BadMark, Barrier, Build, Forgotten, Freeze, History, Last,
    Latest, NodeRecord, Question, ReceiverCursor, Reply, Request, Run, Segment, Status, Sweep, decode, encode,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return };
    let (name, record) = (&input[..end], &input[end + 1..]);
    match name {
        b"abort" => check::<Abort>(record),
        b"ack" => check::<Ack>(record),
        b"action" => check::<Action>(record),
        b"archive" => check::<Archive>(record),
        b"attest" => check::<Attestation>(record),
        b"bad" => check::<BadMark>(record),
        b"barrier" => check::<Barrier>(record),
        b"build" => check::<Build>(record),
        b"forgotten" => check::<Forgotten>(record),
        b"freeze" => check::<Freeze>(record),
        b"history" => check::<History>(record),
        b"journal" => check::<Journal>(record),
        b"last" => check::<Last>(record),
        b"latest" => check::<Latest>(record),
        b"node" => check::<NodeRecord>(record),
        b"question" => check::<Question>(record),
        b"reply" => check::<Reply>(record),
        b"run" => check::<Run>(record),
        b"seen" => check::<ActionCursor>(record),
        b"segment" => check::<Segment>(record),
        b"status" => check::<Status>(record),
        b"sweep" => check::<Sweep>(record),
        b"told" => check::<ReceiverCursor>(record),
        b"request" => {
            let Ok(request) = Request::parse(record) else { return };
            let written = request.encode();
            let read = Request::parse(written.as_bytes()).expect("a request that was read can be read again");
            assert_eq!(read.encode(), written);
        }
        _ => {}
    }
});

fn check<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Ok(record) = decode::<T>("key", bytes) else { return };
    let written = encode(&record);
    let read = decode::<T>("key", written.as_bytes()).expect("a record that was read can be read again");
    assert_eq!(encode(&read), written);
}
