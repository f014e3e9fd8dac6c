use std::{collections::BTreeMap, ops::RangeInclusive};

use libc::sock_filter;

/// What is allowed, and what the rest is answered.
#[derive(Debug)]
pub(super) struct Profile {
    /// By number.
    pub(super) rules: BTreeMap<u32, Rule>,
    /// Numbers that were there when the profile was written.
    pub(super) known: RangeInclusive<u32>,
    /// The answer to a known number without a rule.
    pub(super) refused: Answer,
    /// The answer to any other number.
    pub(super) unknown: Answer,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    /// Whatever its arguments.
    Answer(Answer),
    /// It depends.
    Check(Check),
}

/// A question about one argument. Only its lower 32 bits are looked at: the kernel looks at no more of those that are asked about
/// here, so the upper ones must not make a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    /// The question is only asked if another argument has any of these bits; otherwise the call is allowed.
    pub(super) only_if: Option<(u8, u32)>,
    /// Which.
    pub(super) argument: u8,
    /// What is asked.
    pub(super) test: Test,
    /// If so.
    pub(super) then: Answer,
    /// If not.
    pub(super) otherwise: Answer,
}

/// What is asked about an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// Whether it has any of these bits.
    AnyBit(u32),
    /// Whether it is one of these.
    OneOf(&'static [u32]),
}

/// An answer of the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel does it.
    Allow,
    /// The call fails with this error.
    Error(i32),
}

impl Answer {
    const fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            #[expect(clippy::cast_sign_loss, reason = "error numbers are positive")]
            Self::Error(number) => libc::SECCOMP_RET_ERRNO | (number as u32 & libc::SECCOMP_RET_DATA),
        }
    }
}

/// `AUDIT_ARCH_X86_64`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The profile as a program: a search tree over ranges of numbers with the same rule.
pub(super) fn compile(profile: &Profile) -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE_AT),
        // A 32 bit program has other numbers for everything; it ends at its first call.
        instruction(JUMP_IF_EQUAL, 1, 0, ARCHITECTURE),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, 0, NUMBER_AT),
    ];
    program.extend(tree(&ranges(profile)));
    program
}

/// The whole number space as ranges: where each begins, and its rule.
fn ranges(profile: &Profile) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut push = |begin: u32, rule: Rule| {
        if ranges.last().is_none_or(|(_, last)| *last != rule) {
            ranges.push((begin, rule));
        }
    };
    for number in profile.known.clone() {
        push(number, profile.rules.get(&number).cloned().unwrap_or(Rule::Answer(profile.refused)));
    }
    push(profile.known.end() + 1, Rule::Answer(profile.unknown));
    ranges
}

fn tree(ranges: &[(u32, Rule)]) -> Vec<sock_filter> {
    match ranges {
        [] => Vec::new(),
        [(_, rule)] => leaf(rule),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (begin, low, high) = (high[0].0, tree(low), tree(high));
            let mut program = match u8::try_from(low.len()) {
                Ok(distance) => vec![instruction(JUMP_IF_AT_LEAST, distance, 0, begin)],
                // Too far for a conditional jump.
                Err(_) => {
                    vec![instruction(JUMP_IF_AT_LEAST, 0, 1, begin), instruction(JUMP, 0, 0, u32::try_from(low.len()).unwrap_or(u32::MAX))]
                }
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

fn leaf(rule: &Rule) -> Vec<sock_filter> {
    let give = |answer: Answer| instruction(RETURN, 0, 0, answer.value());
    match rule {
        Rule::Answer(answer) => vec![give(*answer)],
        Rule::Check(check) => {
            // The lower half comes first on both architectures: they are little-endian.
            let load = |argument: u8| instruction(LOAD, 0, 0, ARGUMENTS_AT + 8 * u32::from(argument));
            let mut program = Vec::new();
            if let Some((argument, bits)) = check.only_if {
                program.extend([load(argument), instruction(JUMP_IF_BITS, 1, 0, bits), give(Answer::Allow)]);
            }
            program.push(load(check.argument));
            match check.test {
                Test::AnyBit(bits) => program.push(instruction(JUMP_IF_BITS, 1, 0, bits)),
                Test::OneOf(values) => {
                    for (index, value) in values.iter().enumerate() {
                        // Over the comparisons that are left and over the answer to none of them.
                        let distance = u8::try_from(values.len() - index).unwrap_or(u8::MAX);
                        program.push(instruction(JUMP_IF_EQUAL, distance, 0, *value));
                    }
                }
            }
            program.extend([give(check.otherwise), give(check.then)]);
            program
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::profile::{profile, special_bits_alone, without_special_bits},
        *,
    };

    /// The kernel's view of a program, as far as ours goes.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0, 0_u32, 0);
        loop {
            let step = program[at];
            (at, steps) = (at + 1, steps + 1);
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                LOAD if step.k == NUMBER_AT => accumulator = number,
                LOAD if step.k == ARCHITECTURE_AT => accumulator = architecture,
                LOAD => accumulator = arguments[(step.k - ARGUMENTS_AT) as usize / 8] as u32,
                JUMP => at += step.k as usize,
                JUMP_IF_EQUAL => at += jump(accumulator == step.k),
                JUMP_IF_AT_LEAST => at += jump(accumulator >= step.k),
                JUMP_IF_BITS => at += jump(accumulator & step.k != 0),
                RETURN => return (step.k, steps),
                code => panic!("unknown instruction {code}"),
            }
        }
    }

    fn answer(number: i64, arguments: [u64; 6]) -> u32 {
        run(&compile(&profile()), ARCHITECTURE, number as u32, arguments).0
    }

    #[test]
    fn every_number_gets_the_answer_of_its_rule_within_few_steps() {
        let profile = profile();
        let program = compile(&profile);
        assert!(program.len() < 1000, "{}", program.len());
        for number in (0..600).chain([0x4000_0000, u32::MAX]) {
            let (given, steps) = run(&program, ARCHITECTURE, number, [0; 6]);
            match profile.rules.get(&number) {
                Some(Rule::Answer(answer)) => assert_eq!(given, answer.value(), "{number}"),
                Some(Rule::Check(_)) => {}
                None if profile.known.contains(&number) => assert_eq!(given, profile.refused.value(), "{number}"),
                None => assert_eq!(given, profile.unknown.value(), "{number}"),
            }
            assert!(steps < 24, "{number} takes {steps} steps");
        }
    }

    #[test]
    fn arguments_decide_by_their_lower_half() {
        let (allow, refuse) = (Answer::Allow.value(), Answer::Error(libc::EPERM).value());
        assert_eq!(answer(libc::SYS_clone, [libc::CLONE_VM as u64 | 17, 0, 0, 0, 0, 0]), allow);
        assert_eq!(answer(libc::SYS_clone, [libc::CLONE_NEWUSER as u64 | 17, 0, 0, 0, 0, 0]), refuse);
        for high in [0, 1 << 32] {
            assert_eq!(answer(libc::SYS_ioctl, [0, 0x5412 | high, 0, 0, 0, 0]), refuse);
            assert_eq!(answer(libc::SYS_ioctl, [0, 0x5413 | high, 0, 0, 0, 0]), allow);
            assert_eq!(answer(libc::SYS_socket, [40 | high, 1, 0, 0, 0, 0]), Answer::Error(libc::EAFNOSUPPORT).value());
            assert_eq!(answer(libc::SYS_socket, [2 | high, 1, 0, 0, 0, 0]), allow);
        }
        assert_eq!(answer(libc::SYS_personality, [0x2_0008, 0, 0, 0, 0, 0]), allow);
        assert_eq!(answer(libc::SYS_personality, [0x4_0000, 0, 0, 0, 0, 0]), refuse);
        assert_eq!(answer(libc::SYS_clone3, [0; 6]), Answer::Error(libc::ENOSYS).value());
    }

    #[test]
    fn special_bits_are_refused_where_a_file_is_made_or_changed() {
        let program = compile(&without_special_bits());
        let answer = |number: i64, arguments: [u64; 6]| run(&program, ARCHITECTURE, number as u32, arguments).0;
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        assert_eq!(answer(libc::SYS_fchmodat, [0, 0, 0o4755, 0, 0, 0]), refused);
        assert_eq!(answer(libc::SYS_fchmodat, [0, 0, 0o1755, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
        let create = libc::O_CREAT as u64;
        assert_eq!(answer(libc::SYS_openat, [0, 0, create, 0o2755, 0, 0]), refused);
        assert_eq!(answer(libc::SYS_openat, [0, 0, libc::O_TMPFILE as u64, 0o4755, 0, 0]), refused);
        assert_eq!(answer(libc::SYS_openat, [0, 0, create, 0o755, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer(libc::SYS_openat, [0, 0, 0, 0o6000, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer(libc::SYS_openat2, [0; 6]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        let alone = compile(&special_bits_alone());
        let answer = |number: i64, arguments: [u64; 6]| run(&alone, ARCHITECTURE, number as u32, arguments).0;
        assert_eq!(answer(libc::SYS_fchmod, [0, 0o4755, 0, 0, 0, 0]), refused);
        assert_eq!(answer(libc::SYS_openat, [0, 0, create, 0o2755, 0, 0]), refused);
        for number in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_mount, libc::SYS_clone3, 9999] {
            assert_eq!(answer(number, [0; 6]), libc::SECCOMP_RET_ALLOW, "{number}");
        }
    }

    #[test]
    fn another_architecture_is_killed() {
        assert_eq!(run(&compile(&profile()), 0x4000_0003, 1, [0; 6]).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
