//! Decompression, chosen by the first bytes: media types lie, magic numbers seldom do.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How much is read from the source at once.
const SOURCE_BUFFER: usize = 128 * 1024;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// zstd's skippable frames: 0x184D2A50 to 0x184D2A5F, little endian. Archives with a table of contents may begin with one.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The largest window of a zstd stream that is accepted, as a power of two: 128 MiB, what zstd's own tool accepts.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Compressions that layers have elsewhere, and we do not read.
const UNSUPPORTED: [(&[u8], &str); 2] = [(b"BZh9", "bzip2"), (&[0xfd, b'7', b'z', b'X'], "xz")];

/// A reader of the uncompressed bytes. It reads the source to its end: every member of a gzip file, every frame of a zstd file.
pub(crate) enum Decoder<R: Read> {
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Plain(Source<R>),
}

/// The source with the bytes that were looked at put back in front.
type Source<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

impl<R: Read> Decoder<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&GZIP);
        let is_zstd =
            magic == ZSTD || (magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == ZSTD_SKIPPABLE);
        if let Some((_, name)) = UNSUPPORTED.iter().find(|(start, _)| magic.starts_with(start)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the layer is compressed with {name}: only gzip, zstd and no compression are supported"
                ),
            ));
        }
        let source = BufReader::with_capacity(SOURCE_BUFFER, io::Cursor::new(magic).chain(source));
        Ok(if is_gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if is_zstd {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Self::Zstd(Box::new(decoder))
        } else {
            Self::Plain(source)
        })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Plain(source) => {
                // Straight from the buffer: BufReader::read would bypass it only for large reads.
                let available = source.fill_buf()?;
                let n = available.len().min(buffer.len());
                buffer[..n].copy_from_slice(&available[..n]);
                source.consume(n);
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_form_gives_the_same_bytes() {
        let text = b"one after another ".repeat(5000);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'x', b'y', b'z'];
        skippable.extend(zstd(&text));
        let (front, back) = text.split_at(1000);
        for bytes in [
            text.clone(),
            gzip(&text),
            [gzip(front), gzip(back)].concat(),
            zstd(&text),
            [zstd(front), zstd(back)].concat(),
            skippable,
        ] {
            assert!(decode(&bytes).unwrap() == text);
        }
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(b"ab").unwrap(), b"ab");
    }

    #[test]
    fn compressions_that_we_do_not_read_are_named() {
        for (bytes, name) in [(b"BZh91AY&SY".as_slice(), "bzip2"), (b"\xfd7zXZ\0", "xz")] {
            let error = decode(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error() {
        let text = b"one after another ".repeat(5000);
        let (gz, zst) = (gzip(&text), zstd::encode_all(&text[..], 1).unwrap());
        for whole in [&gz, &zst] {
            for length in [5, whole.len() / 2, whole.len() - 1] {
                assert!(decode(&whole[..length]).is_err(), "{length}");
            }
        }
        let mut damaged = gz.clone();
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        assert!(decode(&damaged).is_err(), "a wrong checksum");
    }
}
