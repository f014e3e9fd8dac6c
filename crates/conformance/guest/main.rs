//! What the conformance cases execute inside a sandbox: small servers, hogs, and attacks. Standard library only, linked statically,
//! so that it runs in any image. A command prints `ready` when it has begun, and its findings one a line.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is its answer")]

mod attack;
mod hog;
mod nest;
mod net;
mod number;
mod sys;
mod terminal;
mod volume;

use std::{env, io::Write, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["echo", address] => net::echo(address),
        ["hello", address] => net::hello(address),
        ["flood", address] => net::flood(address),
        ["connect", address] => net::connect(address),
        ["talk", address, text] => net::talk(address, text),
        ["whisper", address, text] => net::whisper(address, text),
        ["datagrams", address, sizes @ ..] => net::datagrams(address, sizes),
        ["sockets", address, count, refused] => net::sockets(address, number(count), number(refused)),
        ["resolve", how, server, name] => net::resolve(how, server, name),
        ["memory", mebibytes] => hog::memory(number(mebibytes)),
        ["burn", millis, threads] => hog::burn(number(millis), number(threads)),
        ["files", count] => hog::files(number(count)),
        ["forks", count] => hog::forks(number(count)),
        ["bomb"] => hog::bomb(),
        ["threads", count] => hog::threads(number(count)),
        ["fill", path, mebibytes] => hog::fill(path, number(mebibytes)),
        ["inodes", path, count] => hog::inodes(path, number(count)),
        ["noise", bytes, seed] => hog::noise(number(bytes), number(seed)),
        ["digest", path] => hog::digest(path),
        ["tick", millis] => hog::tick(number(millis)),
        ["deep", levels] => nest::deep(number(levels)),
        ["xattr", path, name] => nest::xattr(path, name),
        ["volume", path] => volume::all(path),
        ["size"] => terminal::size(),
        ["env", name] => env::var(name).map(|value| say(&value)).map_err(std::io::Error::other),
        ["attack", name, rest @ ..] => return attack::run(name, rest),
        _ => Err(std::io::Error::other(format!("unknown command {words:?}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Says that the command has begun.
fn ready() {
    say("ready");
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}
