//! Control messages of `sendmsg` and `recvmsg` (cmsg(3)), in a buffer on the stack.

#![expect(unsafe_code, reason = "the kernel and libc lay control messages out behind raw pointers")]

use std::mem::MaybeUninit;

use libc::{c_int, cmsghdr, msghdr};

/// Bytes of the buffer: the messages of a datagram received over IPv6 take 112, those of one sent 64.
const CONTROL_BYTES: usize = 192;

/// A buffer of control messages, aligned as their headers have to be.
#[derive(Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_BYTES],
    used: usize,
}

impl Control {
    /// Makes an empty one.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; CONTROL_BYTES], used: 0 }
    }

    /// Appends a message; false where it does not fit.
    pub(super) fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) -> bool {
        let size = wide(size_of::<T>());
        // SAFETY: both only calculate.
        let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        let end = self.used + narrow::<usize, _>(space);
        let Some(room) = self.bytes.get_mut(self.used..end) else { return false };
        let at: *mut cmsghdr = room.as_mut_ptr().cast();
        // SAFETY: `room` is a header, the value and their padding long. It is aligned for a header: the buffer
        // is, and CMSG_SPACE keeps every end so. All zeros is a valid header. The value is copied unaligned.
        unsafe {
            let mut header: cmsghdr = MaybeUninit::zeroed().assume_init();
            header.cmsg_level = level;
            header.cmsg_type = kind;
            header.cmsg_len = narrow(length);
            at.write(header);
            libc::CMSG_DATA(at).cast::<T>().write_unaligned(value);
        }
        self.used = end;
        true
    }

    /// Lets `message` carry what was pushed, or nothing where nothing was.
    pub(super) fn attach_pushed(&mut self, message: &mut msghdr) {
        if self.used > 0 {
            message.msg_control = self.bytes.as_mut_ptr().cast();
            message.msg_controllen = narrow(self.used);
        }
    }

    /// Lets the kernel fill the whole buffer when it receives into `message`.
    pub(super) fn attach_room(&mut self, message: &mut msghdr) {
        message.msg_control = self.bytes.as_mut_ptr().cast();
        message.msg_controllen = narrow(CONTROL_BYTES);
    }
}

/// Calls `each` with level, type and data of every control message of a received `message`.
///
/// # Safety
///
/// `msg_control` of `message` points to `msg_controllen` initialised bytes that `recvmsg` wrote.
pub(super) unsafe fn for_each(message: &msghdr, mut each: impl FnMut(c_int, c_int, &[u8])) {
    // SAFETY: it only calculates.
    let header_bytes: usize = narrow(unsafe { libc::CMSG_LEN(0) });
    // SAFETY: the caller vouches for the buffer, and the kernel for the headers in it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the buffer, whose
        // length includes the data behind it.
        unsafe {
            let header = &*at;
            let data_bytes = narrow::<usize, _>(header.cmsg_len).saturating_sub(header_bytes);
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(at), data_bytes);
            each(header.cmsg_level, header.cmsg_type, data);
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
}

/// A length in the width that this C library has for it; all of them hold what fits in [`CONTROL_BYTES`].
pub(super) fn narrow<T: TryFrom<F> + Default, F>(length: F) -> T {
    T::try_from(length).unwrap_or_default()
}

fn wide(length: usize) -> libc::c_uint {
    narrow(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_back_and_what_does_not_fit_is_refused() {
        // SAFETY: all zeros is a valid header.
        let mut message: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut control = Control::new();
        control.attach_pushed(&mut message);
        assert!(message.msg_control.is_null());
        let mut pushed = Vec::new();
        while control.push(libc::SOL_UDP, libc::UDP_SEGMENT, [1_u8, 2, 3]) {
            assert!(control.push(libc::SOL_IP, libc::IP_TOS, 0x0403_0201_u32));
            pushed.push((libc::SOL_UDP, libc::UDP_SEGMENT, vec![1, 2, 3]));
            pushed.push((libc::SOL_IP, libc::IP_TOS, 0x0403_0201_u32.to_ne_bytes().to_vec()));
        }
        assert!(!control.push(libc::SOL_IP, libc::IP_TOS, [0_u8; CONTROL_BYTES]));
        control.attach_pushed(&mut message);
        let mut read = Vec::new();
        // SAFETY: `control` wrote the buffer, and lives.
        unsafe { for_each(&message, |level, kind, data| read.push((level, kind, data.to_vec()))) };
        assert_eq!(read, pushed);
        assert!(read.len() >= 4);
    }
}
