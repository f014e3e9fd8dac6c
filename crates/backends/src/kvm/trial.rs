//! A machine for one small guest, run with a deadline.

#![expect(unsafe_code, reason = "guest memory is shared with the kernel; a thread in KVM_RUN is called back by a signal")]

use std::{
    io, mem,
    os::{fd::AsRawFd, unix::thread::JoinHandleExt},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::guest::{LOAD, MEMORY, PORT, Stage};

/// How long a guest that was called back may take to come. One that does not is stuck in the kernel, and its thread is left behind.
const GRACE: Duration = Duration::from_secs(5);
/// Three free pages that Intel's processors need below 4 GiB; where every VMM has them.
const TASK_STATE_SEGMENT: usize = 0xfffb_d000;
/// What the guest says when something came out wrong.
const WRONG: u8 = 0xff;
/// `KVM_SET_SIGNAL_MASK`: the signals that are blocked while the guest runs.
const KVM_SET_SIGNAL_MASK: u32 = 0x4004_ae8b;

/// The register that counts a processor's cycles.
const TIME_STAMP_COUNTER: u32 = 0x10;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// At its last instruction, after every stage.
    Well,
    /// So too, but KVM's clock for it stands still: no timer of a guest would ever fire.
    Timeless,
    /// Before.
    Early {
        /// What still worked.
        stage: Stage,
        /// What was seen instead.
        why: String,
    },
    /// Not within the deadline.
    Late {
        /// What worked so far.
        stage: Stage,
        /// Whether it was stopped then; otherwise its thread is stuck in the kernel.
        stopped: bool,
    },
}

/// Runs `program` until it halts, fails, or `patience` is over.
pub(super) fn run(kvm: Kvm, program: &'static [u8], patience: Duration) -> io::Result<Ended> {
    let (reached, (tell, told)) = (Arc::new(AtomicU8::new(0)), mpsc::channel());
    let stage = Arc::clone(&reached);
    let thread = thread::Builder::new().name("kvm-trial".to_owned()).spawn(move || {
        block_callback();
        // Nobody listens any more when the deadline is long over.
        let _ = tell.send(Machine::new(&kvm, program).and_then(|mut machine| machine.run(&stage)));
    })?;
    let stage = || Stage::announced(reached.load(Ordering::Acquire)).unwrap_or(Stage::Nothing);
    let ended = told.recv_timeout(patience).or_else(|_| {
        // SAFETY: the thread is not joined, so its handle is good, whether it runs or has ended.
        unsafe { libc::pthread_kill(thread.as_pthread_t() as _, callback()) };
        told.recv_timeout(GRACE)
    });
    match ended {
        Ok(ended) => {
            let _ = thread.join();
            ended
        }
        Err(_) => Ok(Ended::Late { stage: stage(), stopped: false }),
    }
}

/// The signal that calls a guest's thread back. It is never delivered: the thread blocks it except within `KVM_RUN`, which returns at it.
fn callback() -> i32 {
    libc::SIGRTMIN()
}

fn block_callback() {
    // SAFETY: the set is a local value; blocking a signal in one's own thread has no precondition.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, callback());
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
    }
}

/// Memory of a guest, which outlives the machine that it belongs to.
struct Memory(ptr::NonNull<u8>);

impl Memory {
    fn new(program: &[u8]) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping, at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), MEMORY, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(start) = ptr::NonNull::new(address.cast::<u8>()) else { return Err(io::Error::other("memory at address 0")) };
        // SAFETY: the program is far smaller than the mapping, and nobody else knows the mapping yet.
        unsafe { start.as_ptr().add(LOAD as usize).copy_from_nonoverlapping(program.as_ptr(), program.len()) };
        Ok(Self(start))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; the machine that used it is gone (see the order of its fields).
        unsafe { libc::munmap(self.0.as_ptr().cast(), MEMORY) };
    }
}

/// Dropped in the order of its fields.
struct Machine {
    processor: VcpuFd,
    _machine: VmFd,
    _memory: Memory,
}

impl Machine {
    fn new(kvm: &Kvm, program: &[u8]) -> io::Result<Self> {
        let memory = Memory::new(program)?;
        let machine = kvm.create_vm()?;
        machine.set_tss_address(TASK_STATE_SEGMENT)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.0.as_ptr() as u64,
        };
        // SAFETY: the mapping lives longer than the machine.
        unsafe { machine.set_user_memory_region(region) }?;
        let processor = machine.create_vcpu(0)?;
        processor.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
        let mut special = processor.get_sregs()?;
        special.cs.base = 0;
        special.cs.selector = 0;
        processor.set_sregs(&special)?;
        processor.set_regs(&kvm_regs { rip: LOAD, rflags: 2, ..kvm_regs::default() })?;
        let machine = Self { processor, _machine: machine, _memory: memory };
        machine.unblock_callback()?;
        Ok(machine)
    }

    /// Lets the callback through while the guest runs.
    fn unblock_callback(&self) -> io::Result<()> {
        /// `struct kvm_signal_mask` with the kernel's 64 signals, none of them blocked.
        #[repr(C)]
        struct Mask {
            length: u32,
            blocked: [u8; 8],
        }
        let mask = Mask { length: 8, blocked: [0; 8] };
        // SAFETY: the descriptor is a virtual processor's, and the argument is the structure that this request reads.
        let done = unsafe { libc::ioctl(self.processor.as_raw_fd(), KVM_SET_SIGNAL_MASK as _, &raw const mask) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether time passes in the guest, as KVM reckons it. It does not where KVM was loaded before the kernel had measured the processor's rate, and the
    /// measurement came out lower than what KVM had seen by then: "user requested TSC rate below hardware speed", and a rate of 0 (`kvm_set_tsc_khz`).
    fn has_clock(&self) -> io::Result<bool> {
        let first = self.time()?;
        thread::sleep(Duration::from_millis(1));
        Ok(self.time()? != first)
    }

    fn time(&self) -> io::Result<u64> {
        let counter = kvm_msr_entry { index: TIME_STAMP_COUNTER, ..kvm_msr_entry::default() };
        let mut values = Msrs::from_entries(&[counter]).map_err(io::Error::other)?;
        self.processor.get_msrs(&mut values)?;
        Ok(values.as_slice().first().map_or(0, |value| value.data))
    }

    fn run(&mut self, reached: &AtomicU8) -> io::Result<Ended> {
        let mut stage = Stage::Nothing;
        loop {
            let why = match self.processor.run() {
                Ok(VcpuExit::IoOut(PORT, [WRONG])) => "an instruction had the wrong effect".to_owned(),
                Ok(VcpuExit::IoOut(PORT, [code])) => {
                    if let Some(next) = Stage::announced(*code) {
                        stage = next;
                        reached.store(*code, Ordering::Release);
                        continue;
                    }
                    format!("it said {code:#x}")
                }
                Ok(VcpuExit::Hlt) if stage == Stage::Done => return Ok(if self.has_clock()? { Ended::Well } else { Ended::Timeless }),
                Ok(VcpuExit::Hlt) => "it halted".to_owned(),
                Ok(VcpuExit::InternalError) => "KVM_EXIT_INTERNAL_ERROR".to_owned(),
                Ok(VcpuExit::Shutdown) => "KVM_EXIT_SHUTDOWN (a triple fault)".to_owned(),
                Ok(VcpuExit::FailEntry(reason, _)) => format!("KVM_EXIT_FAIL_ENTRY, reason {reason:#x}"),
                Ok(other) => format!("{other:?}"),
                Err(error) if error.errno() == libc::EINTR => return Ok(Ended::Late { stage, stopped: true }),
                Err(error) => io::Error::from(error).to_string(),
            };
            return Ok(Ended::Early { stage, why });
        }
    }
}
