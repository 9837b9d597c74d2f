//! One writer among the operator's processes. In: a Lease of `coordination.k8s.io`, which all of them try to hold. Out:
//! whether this process may write now, and a barrier under its client that refuses what it may not.
//!
//! [`decision`] says what a Lease means, [`candidate`] reads and writes it, [`barrier`] is what follows from it.
//!
//! The figures are client-go's: a Lease that was not renewed for 15 s may be taken, its holder renews it every 2 s, and
//! one that could not renew it for 10 s stops writing: 5 s before anybody else can begin. Clocks of different machines
//! are never compared: a candidate counts from when it saw the Lease change.

mod barrier;
mod candidate;
mod decision;

use std::time::Duration;

pub use barrier::{Barrier, BarrierLayer, Leadership, NotLeading};
pub use candidate::{Candidate, LeaseOptions, Lost};
pub use decision::{Decision, evaluate};

/// After this long without a renewal another process may take the Lease.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the holder writes nothing more, and ends.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks of a candidate, and two renewals of the holder.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
