//! The receipt of a claim: everything a worker must send back to report.
//!
//! In: packing task, step and token into a UUID of version 8 and back. Out: whether a receipt still fits its step.

/// The bits of a token.
pub const TOKEN_BITS: u32 = 39;
/// The largest token.
pub const MAX_TOKEN: i64 = (1 << TOKEN_BITS) - 1;
/// The largest step id a receipt can carry.
pub const MAX_STEP_ID: i32 = (1 << STEP_BITS) - 1;

const STEP_BITS: u32 = 20;
/// The bits below the UUID's variant.
const LOW_BITS: u32 = 62;
/// The bits between version and variant.
const MIDDLE_BITS: u32 = 12;
const VERSION: u128 = 8;
const VARIANT: u128 = 0b10;

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Not negative: 63 bits.
    pub task_id: i64,
    /// 0..=[`MAX_STEP_ID`]: 20 bits.
    pub step_id: i32,
    /// 0..=[`MAX_TOKEN`]: 39 random bits.
    pub token: i64,
}

/// A token from 64 random bits.
#[inline]
pub fn token(random: u64) -> i64 {
    (random >> (u64::BITS - TOKEN_BITS)) as i64
}

/// The receipt as the bytes of a UUID, in network order; receipts of one task sort together.
///
/// Of a value out of its range only the low bits are kept.
#[inline]
pub fn encode(receipt: Receipt) -> [u8; 16] {
    let task = u128::from(receipt.task_id as u64 & (u64::MAX >> 1));
    let step = receipt.step_id as u128 & low(STEP_BITS);
    let token = receipt.token as u128 & low(TOKEN_BITS);
    let packed = task << (STEP_BITS + TOKEN_BITS) | step << TOKEN_BITS | token;
    let high = packed >> (LOW_BITS + MIDDLE_BITS);
    let middle = (packed >> LOW_BITS) & low(MIDDLE_BITS);
    let uuid = high << 80 | VERSION << 76 | middle << 64 | VARIANT << LOW_BITS | (packed & low(LOW_BITS));
    uuid.to_be_bytes()
}

/// What the UUID says, or `None` if it is not of the version and variant of a receipt.
#[inline]
pub fn decode(bytes: [u8; 16]) -> Option<Receipt> {
    let uuid = u128::from_be_bytes(bytes);
    if (uuid >> 76) & low(4) != VERSION || (uuid >> LOW_BITS) & low(2) != VARIANT {
        return None;
    }
    let packed =
        (uuid >> 80) << (LOW_BITS + MIDDLE_BITS) | ((uuid >> 64) & low(MIDDLE_BITS)) << LOW_BITS | uuid & low(LOW_BITS);
    Some(Receipt {
        task_id: (packed >> (STEP_BITS + TOKEN_BITS)) as i64,
        step_id: ((packed >> TOKEN_BITS) & low(STEP_BITS)) as i32,
        token: (packed & low(TOKEN_BITS)) as i64,
    })
}

#[inline]
const fn low(bits: u32) -> u128 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_uuid_of_version_8() {
        let bytes = encode(Receipt { task_id: 1, step_id: 2, token: 3 });
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0x80, 0, 0x88, 0, 1, 0, 0, 0, 0, 3]);
        assert_eq!(decode(bytes), Some(Receipt { task_id: 1, step_id: 2, token: 3 }));
    }

    #[test]
    fn another_uuid_is_no_receipt() {
        assert_eq!(decode([0; 16]), None);
        assert_eq!(decode([0xff; 16]), None);
        let mut bytes = encode(Receipt { task_id: 1, step_id: 2, token: 3 });
        bytes[6] = 0x40;
        assert_eq!(decode(bytes), None);
    }
}
