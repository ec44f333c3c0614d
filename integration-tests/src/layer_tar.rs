//! Layers' tars written byte for byte: whatever name, header or form of sparse file a test wants, sensible or not.

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it stands in the archive.
    pub name: Vec<u8>,
    /// The type flag: `0` a file, `1` a hard link, `2` a symbolic link, `3` and `4` devices, `5` a directory, `6` a pipe.
    pub kind: u8,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// A file's bytes.
    pub data: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(kind: u8, name: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self {
            name: name.into(),
            kind,
            link: Vec::new(),
            mode,
            owner: (0, 0),
            mtime: (1_600_000_000, 0),
            device: (0, 0),
            data: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    /// A file.
    #[must_use]
    pub fn file(name: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Self {
        Self {
            data: data.into(),
            ..Self::new(b'0', name, 0o644)
        }
    }

    /// A directory.
    #[must_use]
    pub fn dir(name: impl Into<Vec<u8>>) -> Self {
        Self::new(b'5', name, 0o755)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self {
            link: target.into(),
            ..Self::new(b'2', name, 0o777)
        }
    }

    /// A hard link.
    #[must_use]
    pub fn hard_link(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self {
            link: target.into(),
            ..Self::new(b'1', name, 0o644)
        }
    }

    /// A character device.
    #[must_use]
    pub fn device(name: impl Into<Vec<u8>>, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(b'3', name, 0o620)
        }
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(name: impl Into<Vec<u8>>) -> Self {
        Self::new(b'6', name, 0o600)
    }

    /// The same with these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The same with this owner and group.
    #[must_use]
    pub fn owner(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    /// The same with this time.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    /// The same with an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// A tar in the making.
#[derive(Debug, Clone, Default)]
pub struct LayerTar(Vec<u8>);

impl LayerTar {
    /// One of these entries.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
        entries
            .into_iter()
            .fold(Self::default(), |tar, entry| tar.entry(&entry))
            .end()
    }

    /// Adds an entry; what does not fit into its header goes into a PAX header before it.
    #[must_use]
    pub fn entry(mut self, entry: &Entry) -> Self {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if entry.name.len() > 100 {
            records.push(("path".to_owned(), entry.name.clone()));
        }
        if entry.link.len() > 100 {
            records.push(("linkpath".to_owned(), entry.link.clone()));
        }
        for (key, value) in [("uid", entry.owner.0), ("gid", entry.owner.1)] {
            if value > 0o777_7777 {
                records.push((key.to_owned(), value.to_string().into_bytes()));
            }
        }
        let (seconds, nanoseconds) = entry.mtime;
        if nanoseconds > 0 || seconds < 0 {
            records.push(("mtime".to_owned(), decimal(seconds, nanoseconds).into_bytes()));
        }
        for (name, value) in &entry.xattrs {
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if !records.is_empty() {
            self = self.pax(&records);
        }
        let header = header(entry, entry.data.len() as u64);
        self.block(&header, &entry.data)
    }

    /// Adds a PAX header for the entry that follows.
    #[must_use]
    pub fn pax(self, records: &[(String, Vec<u8>)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length += 1;
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let entry = Entry::new(b'x', "PaxHeaders/x", 0o644);
        let header = header(&entry, body.len() as u64);
        self.block(&header, &body)
    }

    /// Adds a GNU long name for the entry that follows.
    #[must_use]
    pub fn gnu_long_name(self, name: &[u8]) -> Self {
        let entry = Entry::new(b'L', "././@LongLink", 0o644);
        let body = [name, b"\0"].concat();
        let header = header(&entry, body.len() as u64);
        self.block(&header, &body)
    }

    /// Adds a sparse file in the old GNU form, with more parts than fit into its header if there are more than four.
    #[must_use]
    pub fn gnu_sparse(mut self, entry: &Entry, parts: &[(u64, Vec<u8>)], size: u64) -> Self {
        let stored: Vec<u8> = parts.iter().flat_map(|(_, data)| data.clone()).collect();
        let mut head = header(
            &Entry {
                kind: b'S',
                ..entry.clone()
            },
            stored.len() as u64,
        );
        head[257..265].copy_from_slice(b"ustar  \0");
        let (first, rest) = parts.split_at(parts.len().min(4));
        put_parts(&mut head[386..], first);
        head[482] = u8::from(!rest.is_empty());
        octal(&mut head[483..495], size);
        seal(&mut head);
        self.0.extend_from_slice(&head);
        let blocks = rest.chunks(21);
        let count = blocks.len();
        for (n, chunk) in blocks.enumerate() {
            let mut block = [0; 512];
            put_parts(&mut block, chunk);
            block[504] = u8::from(n + 1 < count);
            self.0.extend_from_slice(&block);
        }
        self.data(&stored)
    }

    /// Adds a sparse file in a PAX form: minor version 0 or 1 of major version 0, or version 1.0.
    #[must_use]
    pub fn pax_sparse(self, version: (u32, u32), entry: &Entry, parts: &[(u64, Vec<u8>)], size: u64) -> Self {
        let text = |key: &str, value: String| (format!("GNU.sparse.{key}"), value.into_bytes());
        let mut stored: Vec<u8> = parts.iter().flat_map(|(_, data)| data.clone()).collect();
        let records = match version {
            (1, _) => {
                let mut map = format!("{}\n", parts.len());
                for (offset, data) in parts {
                    map.push_str(&format!("{offset}\n{}\n", data.len()));
                }
                let mut map = map.into_bytes();
                map.resize(map.len().next_multiple_of(512), 0);
                stored = [map, stored].concat();
                vec![
                    text("major", "1".to_owned()),
                    text("minor", "0".to_owned()),
                    text("realsize", size.to_string()),
                    ("GNU.sparse.name".to_owned(), entry.name.clone()),
                ]
            }
            (_, 1) => {
                let map: Vec<String> = parts
                    .iter()
                    .map(|(offset, data)| format!("{offset},{}", data.len()))
                    .collect();
                vec![
                    text("size", size.to_string()),
                    text("numblocks", parts.len().to_string()),
                    text("map", map.join(",")),
                    ("GNU.sparse.name".to_owned(), entry.name.clone()),
                ]
            }
            _ => {
                let mut records = vec![
                    text("size", size.to_string()),
                    text("numblocks", parts.len().to_string()),
                ];
                for (offset, data) in parts {
                    records.push(text("offset", offset.to_string()));
                    records.push(text("numbytes", data.len().to_string()));
                }
                records
            }
        };
        let plain = Entry {
            data: stored,
            ..entry.clone()
        };
        self.pax(&records).entry(&plain)
    }

    /// The whole tar.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn block(mut self, header: &[u8; 512], data: &[u8]) -> Self {
        self.0.extend_from_slice(header);
        self.data(data)
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}

fn header(entry: &Entry, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let short = |text: &[u8]| text[..text.len().min(100)].to_vec();
    let (name, link) = (short(&entry.name), short(&entry.link));
    header[..name.len()].copy_from_slice(&name);
    octal(&mut header[100..108], entry.mode.into());
    octal(&mut header[108..116], entry.owner.0.min(0o777_7777));
    octal(&mut header[116..124], entry.owner.1.min(0o777_7777));
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], u64::try_from(entry.mtime.0).unwrap_or(0));
    header[156] = entry.kind;
    header[157..157 + link.len()].copy_from_slice(&link);
    header[257..265].copy_from_slice(b"ustar\x0000");
    if matches!(entry.kind, b'3' | b'4') {
        octal(&mut header[329..337], entry.device.0.into());
        octal(&mut header[337..345], entry.device.1.into());
    }
    seal(&mut header);
    header
}

/// Writes the checksum.
fn seal(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut header[148..155], sum);
    header[155] = b' ';
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
    field[width] = 0;
}

fn put_parts(area: &mut [u8], parts: &[(u64, Vec<u8>)]) {
    for (place, (offset, data)) in area.chunks_mut(24).zip(parts) {
        octal(&mut place[..12], *offset);
        octal(&mut place[12..24], data.len() as u64);
    }
}

/// Seconds with a fraction, as PAX writes times: before the epoch the fraction counts back.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}
