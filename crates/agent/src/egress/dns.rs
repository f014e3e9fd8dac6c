//! Questions and answers of the domain name system (RFC 1035), as far as somebody who owns no zone needs them.

use std::net::Ipv4Addr;

/// Bytes of a header.
const HEADER: usize = 12;
/// How long whoever asked may remember the answer, seconds: short, so that one who keeps asking keeps the name's address in use.
const TIME_TO_LIVE: u32 = 30;
/// `IN`.
const INTERNET: u16 = 1;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: [u8; 2],
    recursion_desired: bool,
    /// The name and what follows it, as they came.
    asked: Vec<u8>,
    /// The name: lower case, labels between dots.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its IPv4 addresses.
    Address,
    /// Something else.
    Other,
}

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The address.
    Address(Ipv4Addr),
    /// The name exists, and has none of what was asked for.
    Nothing,
    /// There is no such name.
    NoSuchName,
    /// There is nobody who knows, for now.
    Failure,
}

/// Why a message is no question that there is an answer to, with what it asks where that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unanswerable {
    /// It is no question: nothing is said to it.
    NoQuestion,
    /// It cannot be read.
    Malformed,
    /// It wants something else than to ask.
    NotImplemented,
    /// Another class than the internet's, no name, or a name that no host has.
    Refused(Vec<u8>),
}

impl Unanswerable {
    /// The message that says so, to the message that it is about.
    pub(super) fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        // Whoever asked compares what it asked.
        let (code, asked): (u8, &[u8]) = match self {
            Self::NoQuestion => return None,
            Self::Malformed => (1, &[]),
            Self::NotImplemented => (4, &[]),
            Self::Refused(asked) => (5, asked),
        };
        let header = message.get(..HEADER)?;
        // The operation and whether recursion is desired are the question's.
        let mut answer = vec![header[0], header[1], 0x80 | header[2] & 0b0111_1001, 0x80 | code];
        answer.extend_from_slice(&[0, u8::from(!asked.is_empty()), 0, 0, 0, 0, 0, 0]);
        answer.extend_from_slice(asked);
        Some(answer)
    }
}

impl Question {
    /// Reads a message: one question about one name of the internet.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Unanswerable> {
        let (header, rest) = message.split_at_checked(HEADER).ok_or(Unanswerable::NoQuestion)?;
        if header[2] & 0b1000_0000 != 0 {
            return Err(Unanswerable::NoQuestion);
        }
        if header[2] & 0b0111_1000 != 0 {
            return Err(Unanswerable::NotImplemented);
        }
        if header[4..6] != [0, 1] {
            return Err(Unanswerable::Malformed);
        }
        let (mut name, mut is_name, mut at) = (String::new(), true, 0);
        loop {
            let length = usize::from(*rest.get(at).ok_or(Unanswerable::Malformed)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Longer ones are pointers, which a question has no use for.
            if length > 63 {
                return Err(Unanswerable::Malformed);
            }
            let label = rest.get(at..at + length).ok_or(Unanswerable::Malformed)?;
            // A dot within a label would make another name of it.
            is_name &= label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            at += length;
        }
        let fields = rest.get(at..at + 4).ok_or(Unanswerable::Malformed)?;
        // A name has 255 bytes at most as it is sent: 253 as it is written.
        if at > 255 {
            return Err(Unanswerable::Malformed);
        }
        let asked = rest[..at + 4].to_vec();
        if name.is_empty() || !is_name || u16::from_be_bytes([fields[2], fields[3]]) != INTERNET {
            return Err(Unanswerable::Refused(asked));
        }
        Ok(Self {
            id: [header[0], header[1]],
            recursion_desired: header[2] & 1 == 1,
            asked,
            name,
            kind: if fields[..2] == [0, 1] { Kind::Address } else { Kind::Other },
        })
    }

    /// The message that answers it.
    pub(super) fn answer(&self, answer: Answer) -> Vec<u8> {
        let code = match answer {
            Answer::Address(_) | Answer::Nothing => 0,
            Answer::Failure => 2,
            Answer::NoSuchName => 3,
        };
        let count = u8::from(matches!(answer, Answer::Address(_)));
        let mut message = Vec::with_capacity(HEADER + self.asked.len() + 16);
        message.extend_from_slice(&self.id);
        // An answer, recursion available.
        message.extend_from_slice(&[0x80 | u8::from(self.recursion_desired), 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        message.extend_from_slice(&self.asked);
        if let Answer::Address(address) = answer {
            // The name is the question's, by a pointer to it.
            message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            message.extend_from_slice(&TIME_TO_LIVE.to_be_bytes());
            message.extend_from_slice(&[0, 4]);
            message.extend_from_slice(&address.octets());
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str, kind: u8) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0, 0, kind, 0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = Question::parse(&question("Example.COM", 1)).unwrap();
        assert_eq!((asked.name.as_str(), asked.kind), ("example.com", Kind::Address));
        let answer = asked.answer(Answer::Address(Ipv4Addr::new(198, 18, 0, 1)));
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[answer.len() - 4..], [198, 18, 0, 1]);
        assert_eq!(Question::parse(&question("a.b", 28)).unwrap().kind, Kind::Other);
        assert_eq!(asked.answer(Answer::NoSuchName)[3], 0x83);
    }

    #[test]
    fn what_is_no_question_is_not_taken_for_one() {
        let whole = question("example.com", 1);
        for length in 0..whole.len() {
            let (why, code) = if length < HEADER { (Unanswerable::NoQuestion, None) } else { (Unanswerable::Malformed, Some(0x81)) };
            assert_eq!(Question::parse(&whole[..length]), Err(why.clone()), "{length}");
            assert_eq!(why.answer(&whole[..length]).map(|answer| answer[3]), code);
        }
        let changed = |change: fn(&mut [u8])| {
            let mut message = whole.clone();
            change(&mut message);
            let why = Question::parse(&message).unwrap_err();
            why.answer(&message)
        };
        assert_eq!(changed(|message| message[2] |= 0x80), None, "an answer is not answered");
        // An update, two questions, a pointer.
        assert_eq!(changed(|message| message[2] = 0x29).unwrap(), [0xab, 0xcd, 0xa9, 0x84, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(changed(|message| message[5] = 2).unwrap(), [0xab, 0xcd, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(changed(|message| message[12] = 0xc0).unwrap()[3], 0x81);
        // A dot within a label, and the class of servers' versions: what was asked is said again.
        for change in [|message: &mut [u8]| message[14] = b'.', |message: &mut [u8]| *message.last_mut().unwrap() = 3] {
            let mut message = whole.clone();
            change(&mut message);
            let answer = Question::parse(&message).unwrap_err().answer(&message).unwrap();
            assert_eq!((&answer[..6], &answer[HEADER..]), (&[0xab, 0xcd, 0x81, 0x85, 0, 1][..], &message[HEADER..]));
        }
        let root = [&whole[..HEADER], &[0, 0, 2, 0, 1]].concat();
        assert!(matches!(Question::parse(&root), Err(Unanswerable::Refused(_))));
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            match Question::parse(&message) {
                Ok(question) => prop_assert!(question.name.len() <= 253),
                Err(why) => prop_assert!(why.answer(&message).is_none_or(|answer| answer.len() <= message.len())),
            }
        }
    }
}
