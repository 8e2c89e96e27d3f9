//! How long a failed step rests before its next attempt.
//!
//! In: the exponential rule and its predictable jitter. Out: an explicit backoff, which replaces it (`transition`).

use super::time::Span;

/// Exponential backoff: `min(2^attempts × base × (1 + jitter × u), cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    pub base: Span,
    pub cap: Span,
    /// 0..=1: the most that is added, as a part of the delay.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: Span::from_secs(1), cap: Span::from_secs(30), jitter: 0.0 }
    }
}

impl Backoff {
    /// The delay after the failure of attempt number `attempts`; never negative, never above the cap.
    ///
    /// `u` in [0, 1) is [`jitter_of`] task, step and attempt, so the same failure always rests equally long.
    #[inline]
    pub fn after(&self, attempts: i32, task_id: i64, step_id: i32) -> Span {
        // 2^63 times the smallest base is beyond every cap, and 2^63 times the largest still fits 128 bits.
        let doublings = attempts.clamp(0, 63);
        let plain = i128::from(self.base.0.max(0)) << doublings;
        let delay = if self.jitter > 0.0 {
            let factor = 1.0 + self.jitter.min(1.0) * jitter_of(task_id, step_id, attempts);
            (plain as f64 * factor) as i128
        } else {
            plain
        };
        let cap = self.cap.0.max(0);
        Span(i64::try_from(delay).map_or(cap, |delay| delay.min(cap)))
    }
}

/// A number in [0, 1) that depends on nothing but its arguments: three rounds of SplitMix64.
#[inline]
pub fn jitter_of(task_id: i64, step_id: i32, attempts: i32) -> f64 {
    let mut hash = splitmix64(task_id as u64);
    hash = splitmix64(hash ^ u64::from(step_id as u32));
    hash = splitmix64(hash ^ u64::from(attempts as u32));
    // The upper 53 bits are exactly what a float's mantissa holds.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[inline]
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_two_seconds_up_to_the_cap() {
        let seconds = [1, 2, 4, 8, 16, 30, 30, 30];
        for (attempts, expected) in (0..).zip(seconds) {
            assert_eq!(Backoff::default().after(attempts, 1, 1), Span::from_secs(expected), "attempt {attempts}");
        }
        assert_eq!(Backoff::default().after(i32::MAX, 1, 1), Span::from_secs(30));
        assert_eq!(Backoff::default().after(-5, 1, 1), Span::from_secs(1));
    }

    #[test]
    fn jitter_is_the_same_for_the_same_failure() {
        let jittered = Backoff { jitter: 1.0, cap: Span::from_secs(3600), ..Backoff::default() };
        assert_eq!(jittered.after(3, 42, 7), jittered.after(3, 42, 7));
        assert_ne!(jittered.after(3, 42, 7), jittered.after(3, 42, 8));
        assert_ne!(jittered.after(3, 42, 7), jittered.after(3, 43, 7));
    }
}
