use std::io::Read;
use std::sync::Weak;

use proptest::prelude::*;

use super::*;
use crate::archive::Decoder;

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::TarGz, ArchiveFormat::TarZst];

fn block_of(format: ArchiveFormat) -> usize {
    Block::of(format).size
}

/// Text and noise in turns, so that blocks take different times and some do not shrink.
fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = Vec::with_capacity(size);
    while content.len() < size {
        let part = random.usize(1..600_000).min(size - content.len());
        let from = content.len();
        if random.bool() {
            content.extend(
                (from..from + part).flat_map(|line| format!("let line_{line} = next();\n").into_bytes()).take(part),
            );
        } else {
            content.resize(from + part, 0);
            random.fill(&mut content[from..]);
        }
    }
    content
}

/// Compresses `content`, written in pieces of `piece` bytes.
fn compressed(content: &[u8], piece: usize, format: ArchiveFormat, threads: usize) -> Vec<u8> {
    let mut compressor = Compressor::with_threads(Vec::new(), format, threads);
    for piece in content.chunks(piece) {
        compressor.write_all(piece).unwrap();
    }
    compressor.finish().unwrap()
}

/// What the nodes read.
fn decompressed(archive: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    Decoder::new(archive).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// Each block compressed alone, by a new encoder.
fn one_by_one(content: &[u8], format: ArchiveFormat) -> Vec<u8> {
    let blocks: Vec<&[u8]> =
        if content.is_empty() { vec![content] } else { content.chunks(block_of(format)).collect() };
    let alone = blocks.into_iter().map(|plain| {
        let block = Block { plain: plain.to_vec(), ..Block::of(format) };
        Encoder::new(format).unwrap().encode(block).unwrap().packed
    });
    alone.flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_bytes_are_the_same_for_every_number_of_threads(
        format in prop::sample::select(&FORMATS),
        blocks in 0_usize..4,
        beyond in -1_isize..=1,
        piece in prop::sample::select(&[511, 128 << 10, usize::MAX]),
        seed in any::<u64>(),
    ) {
        let size = (blocks * block_of(format)).saturating_add_signed(beyond);
        let content = content(size, seed);
        let one = compressed(&content, piece, format, 1);
        prop_assert!(decompressed(&one) == content, "other content");
        for threads in [2, 7] {
            prop_assert!(compressed(&content, 64 << 10, format, threads) == one, "{threads} threads: other bytes");
        }
    }
}

#[test]
fn a_block_is_the_same_whatever_was_compressed_before_it() {
    for format in FORMATS {
        for size in [0, 1, block_of(format), block_of(format) + 1, 3 * block_of(format) + 100] {
            let content = content(size, 7);
            assert!(compressed(&content, 100_000, format, 2) == one_by_one(&content, format), "{format:?} {size}");
        }
    }
}

#[test]
fn what_does_not_shrink_is_compressed_too() {
    for format in FORMATS {
        let mut noise = vec![0; block_of(format) * 2];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        let archive = compressed(&noise, noise.len(), format, 2);
        assert!(archive.len() > noise.len() && archive.len() < noise.len() + noise.len() / 1000);
        assert!(decompressed(&archive) == noise);
    }
}

#[test]
fn no_input_is_a_valid_stream() {
    for format in FORMATS {
        let archive = compressed(b"", 1, format, 2);
        assert!(!archive.is_empty());
        assert_eq!(decompressed(&archive), b"");
    }
}

/// A disk that is full after some bytes.
struct FullAfter(usize);

impl Write for FullAfter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 { Err(io::Error::new(io::ErrorKind::StorageFull, "the disk of the test")) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_of_the_disk(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull && error.to_string() == "the disk of the test"
}

#[test]
fn an_error_of_the_inner_writer_is_returned_and_is_final() {
    for format in FORMATS {
        let content = content(8 * block_of(format), 3);
        let mut compressor = Compressor::with_threads(FullAfter(1000), format, 2);
        let error = compressor.write_all(&content).unwrap_err();
        assert!(is_of_the_disk(&error), "{error}");
        // Nothing may look like a whole archive that lacks a block.
        assert!(compressor.finish().is_err());
    }
}

#[test]
fn an_error_of_the_inner_writer_at_the_end_is_returned() {
    for format in FORMATS {
        let mut compressor = Compressor::with_threads(FullAfter(1000), format, 2);
        compressor.write_all(&content(block_of(format) + 1, 3)).unwrap();
        let error = compressor.finish().err().unwrap();
        assert!(is_of_the_disk(&error), "{error}");
    }
}

#[test]
fn a_dropped_compressor_has_no_threads_left() {
    for format in FORMATS {
        let mut compressor = Compressor::with_threads(Vec::new(), format, 3);
        compressor.write_all(&content(5 * block_of(format), 5)).unwrap();
        // One that has finished its block already may have taken another.
        assert!(!compressor.pool.workers.is_empty());
        let held: Weak<_> = Arc::downgrade(&compressor.pool.jobs);
        drop(compressor);
        assert!(held.upgrade().is_none(), "a worker still has the queue");
    }
}

#[test]
fn one_block_needs_one_thread() {
    for format in FORMATS {
        let mut compressor = Compressor::with_threads(Vec::new(), format, 8);
        compressor.write_all(&content(block_of(format), 5)).unwrap();
        compressor.submit().unwrap();
        assert_eq!(compressor.pool.workers.len(), 1);
    }
}

/// Tells what is written to it.
struct Told(Arc<Mutex<usize>>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.0.lock().unwrap() += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn finished_blocks_are_written_before_all_workers_are_busy() {
    for format in FORMATS {
        let written = Arc::new(Mutex::new(0));
        let mut compressor = Compressor::with_threads(Told(Arc::clone(&written)), format, 1024);
        let block = content(block_of(format), 5);
        // Far fewer blocks than 1,024 threads would take.
        let some = (0..500).any(|_| {
            compressor.write_all(&block).unwrap();
            *written.lock().unwrap() > 0
        });
        assert!(some, "{format:?}: nothing was written");
    }
}
