use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Read, Write},
    thread,
    time::{Duration, Instant},
};

use crate::{ready, say, sys};

const MEBIBYTE: usize = 1 << 20;

/// Takes memory, and touches it, a mebibyte at a time; then holds it.
pub(crate) fn memory(mebibytes: u64) -> io::Result<()> {
    let mut held = Vec::new();
    for count in 1..=mebibytes {
        let mut block = vec![0u8; MEBIBYTE];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        held.push(block);
        if count % 8 == 0 {
            say(&format!("touched {count}"));
        }
    }
    ready();
    black_box(&held);
    loop {
        thread::park();
    }
}

/// Burns CPU in threads, and says how many milliseconds of CPU and of wall time it took.
pub(crate) fn burn(millis: u64, count: u64) -> io::Result<()> {
    let begin = Instant::now();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            thread::spawn(move || {
                let mut value = 1u64;
                while begin.elapsed() < Duration::from_millis(millis) {
                    (0..10_000).for_each(|_| value = black_box(value.wrapping_mul(31)));
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    let ticks: u64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum();
    say(&format!("cpu {} wall {}", ticks * 10, begin.elapsed().as_millis()));
    Ok(())
}

/// Opens files until it may not, and says how many it got.
pub(crate) fn files(count: u64) -> io::Result<()> {
    let held: Vec<File> = (0..count).map_while(|_| File::open("/dev/null").ok()).collect();
    say(&format!("opened {}", held.len()));
    Ok(())
}

/// Makes children that wait, until it may not, and says how many it got.
pub(crate) fn forks(count: u64) -> io::Result<()> {
    let made = (0..count).map_while(|_| sys::fork_waiting().ok()).count();
    say(&format!("forked {made}"));
    ready();
    loop {
        thread::park();
    }
}

/// Doubles without end, and tries again where it may not.
pub(crate) fn bomb() -> io::Result<()> {
    ready();
    loop {
        if sys::double().is_err() {
            thread::yield_now();
        }
    }
}

/// Makes threads that wait, until it may not, and says how many it got.
pub(crate) fn threads(count: u64) -> io::Result<()> {
    let made = (0..count).map_while(|_| thread::Builder::new().stack_size(32 << 10).spawn(thread::park).ok()).count();
    say(&format!("started {made}"));
    Ok(())
}

/// Writes a file a mebibyte at a time, and says how many it got and what stopped it.
pub(crate) fn fill(path: &str, mebibytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = noise_bytes(MEBIBYTE, 1);
    let mut written = 0;
    let stopped = loop {
        if written == mebibytes {
            break None;
        }
        match file.write_all(&block).and_then(|()| if written % 8 == 7 { file.sync_data() } else { Ok(()) }) {
            Ok(()) => written += 1,
            Err(error) => break Some(error),
        }
    };
    let stopped = stopped.or_else(|| file.sync_all().err());
    say(&format!("wrote {written} {}", stopped.map_or_else(|| "none".to_owned(), |error| error.raw_os_error().unwrap_or(0).to_string())));
    Ok(())
}

/// Makes empty files until it may not, and says how many it got.
pub(crate) fn inodes(path: &str, count: u64) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let made = (0..count).take_while(|index| File::create(format!("{path}/{index}")).is_ok()).count();
    say(&format!("made {made}"));
    Ok(())
}

fn noise_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    let mut bytes = vec![0; length];
    noise.fill(&mut bytes);
    bytes
}

/// The generator of `sandbox::noise` on the host's side: both sides make the same bytes.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The length must be a multiple of 8.
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes noise to stdout.
pub(crate) fn noise(bytes: u64, seed: u64) -> io::Result<()> {
    let mut noise = Noise::new(seed);
    let mut buffer = vec![0; 65536];
    let mut left = bytes as usize;
    let mut output = io::stdout().lock();
    while left > 0 {
        noise.fill(&mut buffer);
        let length = left.min(buffer.len());
        output.write_all(&buffer[..length])?;
        left -= length;
    }
    output.flush()
}

/// Says the 64-bit FNV-1a digest (over words) and the length of a file.
pub(crate) fn digest(path: &str) -> io::Result<()> {
    let mut file = File::open(path)?;
    let (mut digest, mut length) = (0xcbf2_9ce4_8422_2325u64, 0u64);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        for chunk in buffer[..filled].chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        }
        length += filled as u64;
        if filled < buffer.len() {
            break;
        }
    }
    say(&format!("{digest:016x} {length}"));
    Ok(())
}

/// Counts aloud.
pub(crate) fn tick(millis: u64) -> io::Result<()> {
    ready();
    for count in 0u64.. {
        say(&format!("tick {count}"));
        thread::sleep(Duration::from_millis(millis));
    }
    Ok(())
}
