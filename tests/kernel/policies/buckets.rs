//! Token buckets filled by the text of `limit` and `hashlimit`, on a clock that is known within bounds.
//!
//! Nothing here depends on how fast the machine is: where the bounds are too wide to tell whether a bucket has a token, the
//! answer is [`None`], and the batch is sent again.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use fwc::iptables::Module;
use fwc::net::{Family, Packet, number_of};

/// What the kernel's clock may be ahead or behind by: a few ticks (`CONFIG_HZ`), and what rounding costs.
const TICKS: f64 = 0.02;
const ROUNDING: f64 = 0.02;

/// So many tokens a second, and so many at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    pub per_second: f64,
    pub burst: f64,
}

impl Fill {
    /// Of a limit of bytes that is never reached: the random policies have rates of megabytes, and packets of some 100 bytes.
    pub const ENDLESS: Self = Self {
        per_second: 1e9,
        burst: 1e9,
    };

    /// Of a window that lasts longer than the packets come: the last of the hits is over.
    pub fn of_window(hits: u8) -> Self {
        Self {
            per_second: 0.0,
            burst: f64::from(hits - 1),
        }
    }

    /// The fill of a `limit`, `hashlimit` or `recent` match, read as iptables-extensions(8) says it.
    pub fn of_module(module: &Module) -> Option<Self> {
        let value = |name: &str| module.setting(name).map(|setting| &*setting.value);
        let (rate, burst) = match module.name {
            "limit" => (value("limit")?, value("limit-burst")),
            "hashlimit" => (
                value("hashlimit-upto").or(value("hashlimit-above"))?,
                value("hashlimit-burst"),
            ),
            // What `--set` records is the hit that `--rcheck` asks about. No window of the random policies ends before they do.
            "recent" => {
                let hits: u8 = value("hitcount")?.parse().ok()?;
                return Some(Self::of_window(hits));
            }
            _ => return None,
        };
        if rate.ends_with("mb/s") {
            return Some(Self::ENDLESS);
        }
        Some(Self {
            per_second: per_second(rate)?,
            burst: burst.map_or(Some(5.0), |burst| burst.parse().ok())?,
        })
    }
}

/// `10/min` as a number.
pub fn per_second(rate: &str) -> Option<f64> {
    let (count, unit) = rate.split_once('/')?;
    let seconds = match unit {
        "sec" | "second" => 1.0,
        "min" | "minute" => 60.0,
        "hour" => 3600.0,
        "day" => 86400.0,
        _ => return None,
    };
    Some(count.parse::<f64>().ok()? / seconds)
}

/// What shares a bucket with a packet under `hashlimit`: source, destination and destination port, each 0 if it does not count.
pub fn bucket_key(module: &Module, packet: &Packet) -> [u128; 3] {
    let family = packet.family;
    let mode = module.setting("hashlimit-mode");
    let has = |part: &str| mode.is_some_and(|mode| mode.value.split(',').any(|one| one == part));
    let part = |name: &str, mask: &str, address: IpAddr| {
        let bits = module.setting(mask);
        let bits = bits.and_then(|mask| mask.value.parse().ok());
        let bits = bits.unwrap_or(u32::from(family.bits()));
        match has(name) {
            true => masked(family, address, bits),
            false => 0,
        }
    };
    // Packets without ports count with port 0.
    let port = packet.destination_port.filter(|_| has("dstport"));
    [
        part("srcip", "hashlimit-srcmask", packet.source),
        part("dstip", "hashlimit-dstmask", packet.destination),
        port.unwrap_or(0).into(),
    ]
}

/// What shares a list entry with a packet under `recent`: the source or the destination, as far as the mask has it.
pub fn list_key(module: &Module, packet: &Packet) -> Option<[u128; 3]> {
    let mask: IpAddr = module.setting("mask")?.value.parse().ok()?;
    let entry = |address| number_of(address) & number_of(mask);
    Some(match module.setting("rdest") {
        Some(_) => [0, entry(packet.destination), 0],
        None => [entry(packet.source), 0, 0],
    })
}

/// The leading bits of an address.
pub fn masked(family: Family, address: IpAddr, bits: u32) -> u128 {
    let host = u32::from(family.bits()) - bits;
    number_of(address) & u128::MAX.checked_shl(host).unwrap_or(0)
}

/// When the packets of one round were sent: from the first until all had arrived, since the rules were loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    pub begin: Duration,
    pub end: Duration,
}

impl Round {
    fn lasted(self) -> f64 {
        (self.end - self.begin).as_secs_f64()
    }
}

struct Bucket {
    least: f64,
    most: f64,
    round: usize,
}

/// The buckets of a batch.
pub struct Buckets<K> {
    rounds: Vec<Round>,
    all: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub fn new(rounds: &[Round]) -> Self {
        Self {
            rounds: rounds.to_vec(),
            all: HashMap::new(),
        }
    }

    /// Takes a token for a packet of a round; `None`: the clock does not tell whether there is one.
    pub fn take(&mut self, key: K, fill: Fill, round: usize) -> Option<bool> {
        let now = self.rounds[round];
        let within = fill.per_second * (now.lasted() + TICKS) * (1.0 + ROUNDING);
        let bucket = self.all.entry(key).or_insert(Bucket {
            least: fill.burst,
            most: fill.burst + within,
            round,
        });
        if bucket.round != round {
            let then = self.rounds[bucket.round];
            let shortest = (now.begin.saturating_sub(then.end)).as_secs_f64() - TICKS;
            let longest = (now.end - then.begin).as_secs_f64() + TICKS;
            let more = fill.per_second * shortest.max(0.0) * (1.0 - ROUNDING);
            bucket.least = (bucket.least + more).min(fill.burst);
            let more = fill.per_second * longest * (1.0 + ROUNDING);
            bucket.most = (bucket.most + more).min(fill.burst) + within;
            bucket.round = round;
        }
        let has = match (bucket.least >= 1.0, bucket.most < 1.0) {
            (true, _) => true,
            (_, true) => false,
            _ => return None,
        };
        if has {
            bucket.least -= 1.0;
            bucket.most -= 1.0;
        }
        Some(has)
    }
}

/// A bucket refills between rounds and never beyond its burst, and a slow round tells nothing.
pub fn refill() -> Result<(), String> {
    let round = |begin, end| {
        let [begin, end] = [begin, end].map(Duration::from_millis);
        Round { begin, end }
    };
    let fill = |burst| Fill {
        per_second: 1.0,
        burst,
    };
    let mut quick = Buckets::new(&[round(0, 10), round(1500, 1510), round(9000, 9010)]);
    let taken = [0, 0, 0, 1, 1, 2, 2, 2].map(|at| quick.take((), fill(2.0), at));
    let wanted = [true, true, false, true, false, true, true, false].map(Some);
    let mut slow = Buckets::new(&[round(0, 1200)]);
    let told = [0, 0].map(|at| slow.take((), fill(1.0), at));
    match taken == wanted && told == [Some(true), None] {
        true => Ok(()),
        false => Err(format!("{taken:?} and {told:?}")),
    }
}
