//! The packet filter (nf_tables): the messages that make, change, remove and list tables, chains, rules and maps.
//!
//! A transaction is framed by two messages of nfnetlink and takes effect as a whole. Names and numbers are those of
//! `linux/netfilter/nf_tables.h`; registers hold 4 bytes each, `8` is the first, and `1` and `2` are the same memory seen as 16 bytes each.

use super::{APPEND, Attributes, CREATE, EXCLUSIVE, Message, Reply, Result, Socket};

/// The protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableFamily {
    /// `ip`
    V4,
    /// `ip6`
    V6,
}

impl TableFamily {
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// The group of notifications about changed rules, as a bit (group 7).
pub(crate) const CHANGES: u32 = 1 << 6;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Length of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;

const NEWTABLE: u16 = 0;
pub(crate) const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
pub(crate) const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
pub(crate) const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
pub(crate) const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
pub(crate) const DELSETELEM: u16 = 14;

/// Attribute 1 of every object is the table's name, but for chains' rules and elements it is the same number too.
pub(crate) const TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const SET_IS_MAP: u32 = 8;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;

fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[family, 0, 0, 0])
}

fn frame(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low])
}

/// Has the kernel take over all of these or none.
pub(crate) fn commit(socket: &mut Socket, what: &str, messages: Vec<Message>) -> Result<()> {
    socket.transaction(what, frame(BATCH_BEGIN), messages, frame(BATCH_END))
}

/// Where a chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `nat` or `filter`.
    pub(crate) kind: &'static str,
    /// Prerouting 0, input 1, forward 2, output 3, postrouting 4.
    pub(crate) number: u32,
    /// Lower ones come first.
    pub(crate) priority: i32,
}

/// One instruction of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Loads a fact about the packet: key of `meta`, register.
    Meta(u32, u32),
    /// Loads a fact about its connection: key of `ct`.
    Connection(u32),
    /// Loads the type (local, broadcast …) of the destination's address.
    DestinationType,
    /// Loads bytes: base (1 network, 2 transport), offset, length, register.
    Payload(u32, u32, u32, u32),
    /// Keeps only these bits, of as many bytes.
    Mask(Vec<u8>),
    /// Goes on only if the first register is this.
    Is(Vec<u8>),
    /// Goes on only if it is not.
    IsNot(Vec<u8>),
    /// Looks the first registers up in a map and loads what is found there, else stops.
    Lookup(&'static str),
    /// Changes the destination to the address in the first registers and the port in this register.
    ChangeDestination(u32),
    /// Changes the source to the address of the interface by which the packet leaves.
    Masquerade,
    /// Ends with a verdict: drop 0, accept 1.
    Verdict(u32),
    /// Goes on in another chain, and here if that says nothing.
    Jump(&'static str),
}

/// Verdicts.
pub(crate) const DROP: u32 = 0;
/// See [`DROP`].
pub(crate) const ACCEPT: u32 = 1;
const JUMP: i32 = -3;
/// The first register.
pub(crate) const FIRST: u32 = 1;

fn expression(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    list.nested(LIST_ELEMENT, |m| {
        m.text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, data)
    })
}

fn compare(list: Message, operation: u32, value: &[u8]) -> Message {
    expression(list, "cmp", |m| {
        m.big_endian(1, FIRST)
            .big_endian(2, operation)
            .nested(3, |m| m.attribute(DATA_VALUE, value))
    })
}

impl Step {
    fn encode(&self, list: Message, family: TableFamily) -> Message {
        match self {
            Self::Meta(key, register) => {
                expression(list, "meta", |m| m.big_endian(1, *register).big_endian(2, *key))
            }
            Self::Connection(key) => expression(list, "ct", |m| m.big_endian(1, FIRST).big_endian(2, *key)),
            // Register, result (3: the address's type), flags (2: of the destination).
            Self::DestinationType => expression(list, "fib", |m| {
                m.big_endian(1, FIRST).big_endian(2, 3).big_endian(3, 2)
            }),
            Self::Payload(base, offset, length, register) => expression(list, "payload", |m| {
                m.big_endian(1, *register)
                    .big_endian(2, *base)
                    .big_endian(3, *offset)
                    .big_endian(4, *length)
            }),
            Self::Mask(mask) => expression(list, "bitwise", |m| {
                m.big_endian(1, FIRST)
                    .big_endian(2, FIRST)
                    .big_endian(3, u32::try_from(mask.len()).unwrap_or_default())
                    .nested(4, |m| m.attribute(DATA_VALUE, mask))
                    .nested(5, |m| m.attribute(DATA_VALUE, &vec![0; mask.len()]))
            }),
            Self::Is(value) => compare(list, 0, value),
            Self::IsNot(value) => compare(list, 1, value),
            Self::Lookup(map) => expression(list, "lookup", |m| {
                m.text(1, map).big_endian(2, FIRST).big_endian(3, FIRST)
            }),
            // Type 1: destination; the address's first register, the port's.
            Self::ChangeDestination(port) => expression(list, "nat", |m| {
                m.big_endian(1, 1)
                    .big_endian(2, family.number().into())
                    .big_endian(3, FIRST)
                    .big_endian(5, *port)
            }),
            Self::Masquerade => expression(list, "masq", |m| m),
            Self::Verdict(code) => immediate(list, *code, None),
            Self::Jump(chain) => immediate(list, JUMP.cast_unsigned(), Some(chain)),
        }
    }
}

fn immediate(list: Message, code: u32, chain: Option<&str>) -> Message {
    expression(list, "immediate", |m| {
        m.big_endian(1, 0).nested(2, |m| {
            m.nested(DATA_VERDICT, |m| {
                let m = m.big_endian(VERDICT_CODE, code);
                chain.map_or(m.clone(), |chain| m.text(VERDICT_CHAIN, chain))
            })
        })
    })
}

/// Key and value of a map.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

/// A table of one family, for making messages about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table<'a> {
    /// The family.
    pub(crate) family: TableFamily,
    /// The name.
    pub(crate) name: &'a str,
}

impl Table<'_> {
    /// Makes the table; one that exists stays.
    pub(crate) fn add(self) -> Message {
        self.about(NEWTABLE, CREATE).big_endian(TABLE_FLAGS, 0)
    }

    /// Removes it with everything in it.
    pub(crate) fn remove(self) -> Message {
        self.about(DELTABLE, 0)
    }

    /// Makes a chain.
    pub(crate) fn add_chain(self, name: &str, hook: Option<Hook>) -> Message {
        let message = self.about(NEWCHAIN, CREATE).text(CHAIN_NAME, name);
        let Some(hook) = hook else { return message };
        message
            .nested(CHAIN_HOOK, |m| {
                m.big_endian(HOOK_NUMBER, hook.number)
                    .big_endian(HOOK_PRIORITY, hook.priority.cast_unsigned())
            })
            .big_endian(CHAIN_POLICY, ACCEPT)
            .text(CHAIN_TYPE, hook.kind)
    }

    /// Adds a rule at the end of a chain; the comment is shown by `nft list`.
    pub(crate) fn add_rule(self, chain: &str, steps: &[Step], comment: &str) -> Message {
        // Type 0, length, text with its zero: how libnftnl keeps a rule's comment.
        let mut userdata = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
        userdata.extend(comment.bytes());
        userdata.push(0);
        self.about(NEWRULE, CREATE | APPEND)
            .text(RULE_CHAIN, chain)
            .nested(RULE_EXPRESSIONS, |list| {
                steps
                    .iter()
                    .fold(list, |list, step| step.encode(list, self.family))
            })
            .attribute(RULE_USERDATA, &userdata)
    }

    /// Makes a map from keys to values, of these types (as nft numbers them) and lengths.
    pub(crate) fn add_map(self, name: &str, id: u32, key: (u32, u32), data: (u32, u32)) -> Message {
        self.about(NEWSET, CREATE)
            .text(SET_NAME, name)
            .big_endian(SET_FLAGS, SET_IS_MAP)
            .big_endian(SET_KEY_TYPE, key.0)
            .big_endian(SET_KEY_LENGTH, key.1)
            .big_endian(SET_DATA_TYPE, data.0)
            .big_endian(SET_DATA_LENGTH, data.1)
            .big_endian(SET_ID, id)
    }

    /// Adds elements to a map.
    pub(crate) fn add_elements(self, map: &str, elements: &[Element]) -> Message {
        self.elements(NEWSETELEM, CREATE | EXCLUSIVE, map, elements)
    }

    /// Takes elements out of a map.
    pub(crate) fn remove_elements(self, map: &str, elements: &[Element]) -> Message {
        self.elements(DELSETELEM, 0, map, elements)
    }

    fn elements(self, kind: u16, flags: u16, map: &str, elements: &[Element]) -> Message {
        self.about(kind, flags)
            .text(ELEMENTS_SET, map)
            .nested(ELEMENTS, |list| {
                elements.iter().fold(list, |list, (key, data)| {
                    list.nested(LIST_ELEMENT, |m| {
                        m.nested(ELEMENT_KEY, |m| m.attribute(DATA_VALUE, key))
                            .nested(ELEMENT_DATA, |m| m.attribute(DATA_VALUE, data))
                    })
                })
            })
    }

    fn about(self, kind: u16, flags: u16) -> Message {
        message(kind, flags, self.family.number()).text(TABLE, self.name)
    }

    /// Everything the table has but its maps' elements, in the kernel's own words: equal if nothing was changed since.
    pub(crate) fn contents(self, socket: &mut Socket) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        for kind in [GETCHAIN, GETRULE] {
            let request = message(kind, 0, self.family.number());
            let request = match kind {
                GETRULE => request.text(TABLE, self.name),
                _ => request,
            };
            let replies = socket.dump("list the packet filter's rules", &request)?;
            let ours = replies
                .into_iter()
                .filter(|reply| reply.attributes(HEADER).text(TABLE).as_deref() == Some(self.name));
            // The header has the generation of the whole rule set, which others change.
            found.extend(ours.map(|reply| reply.body.get(HEADER..).unwrap_or_default().to_vec()));
        }
        Ok(found)
    }

    /// Keys and values of a map; `None`: there is no such map.
    pub(crate) fn elements_of(self, socket: &mut Socket, map: &str) -> Result<Option<Vec<Element>>> {
        let request = self.about(GETSETELEM, 0).text(ELEMENTS_SET, map);
        let replies = match socket.dump("list the published ports of the packet filter", &request) {
            Err(error) if error.is_not_found() => return Ok(None),
            replies => replies?,
        };
        let list = replies
            .iter()
            .flat_map(|reply| reply.attributes(HEADER).within(ELEMENTS))
            .filter_map(|(_, element)| {
                let element = Attributes(element);
                let key = element.within(ELEMENT_KEY).find(DATA_VALUE)?.to_vec();
                let data = element.within(ELEMENT_DATA).find(DATA_VALUE)?.to_vec();
                Some((key, data))
            });
        Ok(Some(list.collect()))
    }
}

/// A chain of any table that is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseChain {
    /// `ip`, `ip6`, `inet`.
    pub(crate) family: &'static str,
    /// Its table.
    pub(crate) table: String,
    /// Its name.
    pub(crate) name: String,
    /// The hook's number, see [`Hook`].
    pub(crate) hook: u32,
    /// Whether what no rule decides is dropped.
    pub(crate) drops: bool,
}

/// Every chain that IP packets pass.
pub(crate) fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>> {
    let replies = socket.dump("list the packet filter's chains", &message(GETCHAIN, 0, 0))?;
    Ok(replies.iter().filter_map(base_chain).collect())
}

fn base_chain(reply: &Reply) -> Option<BaseChain> {
    let family = match reply.body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let attributes = reply.attributes(HEADER);
    Some(BaseChain {
        family,
        table: attributes.text(TABLE)?,
        name: attributes.text(CHAIN_NAME)?,
        hook: attributes.within(CHAIN_HOOK).big_endian(HOOK_NUMBER)?,
        drops: attributes.big_endian(CHAIN_POLICY) == Some(DROP),
    })
}

/// Whether a notification says that something was taken away from the table of this name, by another socket than the one of `own_port`.
pub(crate) fn takes_away(reply: &Reply, table: &str, own_port: u32) -> bool {
    let kind = reply.kind & 0xff;
    reply.kind >> 8 == SUBSYSTEM
        && reply.port != own_port
        && [DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM].contains(&kind)
        && reply.attributes(HEADER).text(TABLE).as_deref() == Some(table)
}
