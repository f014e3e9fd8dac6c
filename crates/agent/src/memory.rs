//! Keeping small what every sandbox pays for.
#![expect(unsafe_code, reason = "the allocator is tuned through the C library; the program's own range is told by the linker")]

/// One arena, and large buffers go back to the system as soon as they are free. To be called before there is a second thread.
pub(crate) fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
    }
}

/// Unmaps the program's code, most of which was only needed to start; what is needed again comes back from the page cache, where all
/// agents share it.
pub(crate) fn forget_start() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let page = rustix::param::page_size();
    let start = (&raw const __executable_start).addr().next_multiple_of(page);
    let end = (&raw const etext).addr() / page * page;
    if start < end {
        // SAFETY: the range is the program's own text and constants, which are mapped from its file and never written to, so that
        // reading them again gives the same.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}
