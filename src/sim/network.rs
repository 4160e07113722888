//! Links between nodes: delay, loss, duplicates, reordering, partitions. Nothing here is fair or in order.

use super::{clock::Micros, random::Random};

/// How links behave at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way takes this long.
    pub min_delay: Micros,
    /// Up to this much is added, anew for each message.
    pub jitter: Micros,
    /// Of a thousand messages, so many are much later than the others,
    pub slow_per_mille: u64,
    /// by up to this.
    pub slow: Micros,
    /// Of a thousand messages, so many are lost.
    pub loss_per_mille: u64,
    /// Of a thousand messages, so many arrive twice.
    pub duplicate_per_mille: u64,
}

impl Weather {
    /// A good local network.
    pub const FAIR: Self = Self {
        min_delay: 300,
        jitter: 2_000,
        slow_per_mille: 0,
        slow: 0,
        loss_per_mille: 0,
        duplicate_per_mille: 0,
    };

    /// A day on which much goes wrong: drawn anew each time.
    pub fn bad(random: &mut Random) -> Self {
        Self {
            min_delay: random.between(300, 40_000),
            jitter: random.between(1_000, 200_000),
            slow_per_mille: random.below(60),
            slow: random.between(100_000, 3_000_000),
            loss_per_mille: random.below(350),
            duplicate_per_mille: random.below(150),
        }
    }
}

/// All links, in both directions.
#[derive(Clone, Debug)]
pub struct Network {
    nodes: usize,
    /// How links behave now.
    pub weather: Weather,
    /// What a link's way takes longer than the shortest, by `from * nodes + to`.
    distance: Vec<Micros>,
    cut: Vec<bool>,
}

impl Network {
    /// A network of `nodes`, each link with a length of its own.
    pub fn new(nodes: usize, weather: Weather, random: &mut Random) -> Self {
        Self {
            nodes,
            weather,
            distance: (0..nodes * nodes)
                .map(|_| random.below(weather.min_delay * 3 + 1))
                .collect(),
            cut: vec![false; nodes * nodes],
        }
    }

    /// Cuts every link between nodes of different sides.
    pub fn split(&mut self, side: impl Fn(usize) -> u8) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                self.cut[from * self.nodes + to] = side(from) != side(to);
            }
        }
    }

    /// Cuts one direction of one link.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from * self.nodes + to] = true;
    }

    /// Joins everything again.
    pub fn heal(&mut self) {
        self.cut.fill(false);
    }

    /// Whether anything sent now from one to another can arrive.
    pub fn connected(&self, from: usize, to: usize) -> bool {
        !self.cut[from * self.nodes + to]
    }

    /// How long the message just sent takes: no entry when it is lost, two when it arrives twice.
    pub fn carry(&self, random: &mut Random, from: usize, to: usize) -> Vec<Micros> {
        if !self.connected(from, to) || random.chance(self.weather.loss_per_mille) {
            return Vec::new();
        }
        let mut arrivals = vec![self.delay(random, from, to)];
        if random.chance(self.weather.duplicate_per_mille) {
            arrivals.push(self.delay(random, from, to));
        }
        arrivals
    }

    fn delay(&self, random: &mut Random, from: usize, to: usize) -> Micros {
        let weather = &self.weather;
        let mut delay = weather.min_delay + self.distance[from * self.nodes + to] + random.below(weather.jitter + 1);
        if random.chance(weather.slow_per_mille) {
            delay += random.below(weather.slow + 1);
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILD: Weather = Weather {
        min_delay: 100,
        jitter: 1_000,
        slow_per_mille: 100,
        slow: 50_000,
        loss_per_mille: 300,
        duplicate_per_mille: 200,
    };

    #[test]
    fn messages_are_lost_doubled_and_overtaken_as_often_as_told() {
        let mut random = Random::new(1, "network");
        let network = Network::new(3, WILD, &mut random);
        let arrivals: Vec<Vec<Micros>> = (0..10_000).map(|_| network.carry(&mut random, 0, 1)).collect();
        let lost = arrivals.iter().filter(|arrival| arrival.is_empty()).count();
        let doubled = arrivals.iter().filter(|arrival| arrival.len() == 2).count();
        assert!((2_800..3_200).contains(&lost), "{lost} of 10,000 lost");
        assert!((1_200..1_600).contains(&doubled), "{doubled} of 10,000 doubled");
        let first: Vec<Micros> = arrivals.iter().filter_map(|arrival| arrival.first().copied()).collect();
        assert!(
            first.windows(2).any(|pair| pair[1] + 1_000 < pair[0]),
            "never overtaken"
        );
        assert!(
            first
                .iter()
                .all(|delay| (100..=100 + 301 + 1_000 + 50_000).contains(delay))
        );
    }

    #[test]
    fn a_partition_stops_everything_between_the_sides_until_it_heals() {
        let mut random = Random::new(2, "network");
        let mut network = Network::new(4, Weather::FAIR, &mut random);
        network.split(|node| u8::from(node >= 2));
        assert!(network.carry(&mut random, 0, 2).is_empty() && network.carry(&mut random, 3, 1).is_empty());
        assert!(!network.carry(&mut random, 0, 1).is_empty() && !network.carry(&mut random, 2, 3).is_empty());
        network.heal();
        assert!(!network.carry(&mut random, 0, 2).is_empty());
        network.cut(0, 2);
        assert!(network.carry(&mut random, 0, 2).is_empty() && !network.carry(&mut random, 2, 0).is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_weather() {
        let run = |seed| {
            let mut random = Random::new(seed, "network");
            let network = Network::new(3, Weather::bad(&mut random), &mut random);
            (0..100).map(|_| network.carry(&mut random, 0, 1)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
