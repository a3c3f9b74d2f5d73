//! The handshake over byte fixtures.

use super::*;

/// FUSE_INIT as recorded from Linux 6.18 (7.45) on x86-64, as words.
fn linux_6_18() -> Vec<u8> {
    let mut words = vec![104, 26, 2, 0, 0, 0, 0, 0, 0, 0];
    words.extend([7, 45, 131_072, 0x73ff_fffb, 0x0000_05fd]);
    words.extend([0; 11]);
    words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect()
}

/// One of the older, shorter layout, made up after linux/fuse.h of Linux 5.4 (7.31): not a recording.
fn linux_5_4() -> Vec<u8> {
    let words = [56, 26, 2, 0, 0, 0, 0, 0, 0, 0, 7, 31, 131_072, 0x03ff_fffb];
    words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect()
}

fn agreed() -> Negotiated {
    negotiate(&InitRequest::parse(&linux_6_18()).unwrap(), KernelFeatures::ALL, 4096)
}

#[test]
fn a_new_kernel_is_understood() {
    let offer = InitRequest::parse(&linux_6_18()).unwrap();
    assert_eq!((offer.unique, offer.minor, offer.max_readahead), (2, 45, 131_072));
    assert!(offer.flags.contains(InitFlags::FUSE_HAS_RESEND | InitFlags::FUSE_PASSTHROUGH));
    let n = agreed();
    assert_eq!((n.minor, n.max_pages, n.max_stack_depth), (40, 256, 1));
    assert_eq!(n.flags, WANTED);
    assert!(n.can_resend());
}

#[test]
fn an_old_kernel_is_understood() {
    let n = negotiate(&InitRequest::parse(&linux_5_4()).unwrap(), KernelFeatures::ALL, 65_536);
    assert_eq!((n.minor, n.max_pages), (31, 16));
    assert!(n.flags.contains(InitFlags::FUSE_MAX_PAGES));
    assert!(!n.can_resend());
    assert!(!n.flags.contains(InitFlags::FUSE_INIT_EXT));
}

#[test]
fn hidden_features_are_not_taken() {
    let offer = InitRequest::parse(&linux_6_18()).unwrap();
    let n = negotiate(&offer, KernelFeatures::ALL.without_resend(), 4096);
    assert!(!n.can_resend());
    assert_eq!(n.flags | InitFlags::FUSE_HAS_RESEND, WANTED);
    let n = negotiate(
        &offer,
        KernelFeatures::ALL.without_posix_acl().without_id_mapping().without_passthrough(),
        4096,
    );
    let hidden = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_ALLOW_IDMAP | InitFlags::FUSE_PASSTHROUGH;
    assert_eq!((n.flags & hidden, n.flags | hidden), (InitFlags::empty(), WANTED));
}

#[test]
fn what_cannot_be_a_handshake_is_refused() {
    let good = linux_6_18();
    for cut in 0..good.len() {
        assert!(InitRequest::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, word: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        InitRequest::parse(&bytes).unwrap_err()
    };
    assert_eq!(with(4, 1), InitError::NotInit(1));
    assert_eq!(with(40, 8), InitError::Version { major: 8, minor: 45 });
    assert_eq!(with(44, 30), InitError::Version { major: 7, minor: 30 });
    assert_eq!(with(0, 105), InitError::Short(104));
}

#[test]
fn the_reply_has_the_kernels_layout() {
    let reply = agreed().reply(0x1122_3344);
    assert_eq!(reply.len(), 80);
    let word = |i: usize| u32::from_ne_bytes(reply[i * 4..i * 4 + 4].try_into().unwrap());
    assert_eq!([word(0), word(1), word(2), word(3)], [80, 0, 0x1122_3344, 0]);
    let (low, high) = halves(WANTED);
    assert_eq!([word(4), word(5), word(6), word(7)], [7, 40, 131_072, low]);
    assert_eq!(&reply[32..36], [64u16.to_ne_bytes(), 48u16.to_ne_bytes()].concat());
    assert_eq!([word(9), word(10)], [1 << 20, 1]);
    assert_eq!(&reply[44..48], [256u16.to_ne_bytes(), [0, 0]].concat());
    assert_eq!([word(12), word(13)], [high, 1]);
    assert!(reply[56..].iter().all(|b| *b == 0));
}

#[test]
fn the_synthetic_request_offers_what_was_agreed() {
    for features in [KernelFeatures::ALL, KernelFeatures::ALL.without_resend()] {
        let n = negotiate(&InitRequest::parse(&linux_6_18()).unwrap(), features, 4096);
        let offer = InitRequest::parse(&n.synthetic_request()).unwrap();
        assert_eq!(offer.flags, n.flags);
        assert_eq!(negotiate(&offer, KernelFeatures::ALL, 4096), n);
    }
}

#[test]
fn a_reply_that_wants_more_than_was_agreed_is_refused() {
    let n = agreed();
    assert_eq!(n.check_reply(&n.reply(SYNTHETIC_UNIQUE)), Ok(()));
    let more = Negotiated { flags: n.flags | InitFlags::FUSE_WRITEBACK_CACHE, ..n };
    assert_eq!(
        n.check_reply(&more.reply(SYNTHETIC_UNIQUE)),
        Err(InitError::NotAgreed(InitFlags::FUSE_WRITEBACK_CACHE))
    );
    let small = Negotiated { max_write: 4096, ..n };
    assert!(matches!(n.check_reply(&small.reply(SYNTHETIC_UNIQUE)), Err(InitError::Room { .. })));
    let old = Negotiated { minor: 31, ..n };
    assert!(matches!(n.check_reply(&old.reply(SYNTHETIC_UNIQUE)), Err(InitError::Version { .. })));
    assert_eq!(n.check_reply(&n.reply(SYNTHETIC_UNIQUE)[..79]), Err(InitError::Short(79)));
    let mut refused = n.reply(SYNTHETIC_UNIQUE);
    refused[4..8].copy_from_slice(&(-5i32).to_ne_bytes());
    assert_eq!(n.check_reply(&refused[..16]), Err(InitError::Refused(5)));
}

#[test]
fn the_record_survives_the_way() {
    let n = agreed();
    let bytes = n.to_bytes();
    assert_eq!(bytes.len(), 36);
    assert_eq!(bytes[..8], [1, 0, 0, 0, 40, 0, 0, 0]);
    assert_eq!(Negotiated::from_bytes(&bytes), Ok(n));
    let earlier = Negotiated { numbering: Numbering::BY_INDEX, ..n };
    assert_eq!(Negotiated::from_bytes(&[&bytes[..34], &[0, 0]].concat()), Ok(earlier));
    let later = [&bytes[..34], &[7, 1]].concat();
    assert_eq!(Negotiated::from_bytes(&later).unwrap().to_bytes()[..], later, "held as it is");
    assert_eq!(Negotiated::from_bytes(&bytes[1..]), Err(InitError::Short(35)));
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(Negotiated::from_bytes(&newer), Err(InitError::Format(2)));
}
