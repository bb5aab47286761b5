//! A host for tests: executes restore input on a model, writes down what was asked, fails on demand.

use std::cell::RefCell;

use super::{Chain, Counters, Dump, Error, Host, Refusal, Rule, Table};
use crate::net::{Family, PerFamily};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The `n`th save of all (from 1) fails.
    Save(usize),
    /// Rehearsing fails.
    Rehearse,
    /// The `n`th restore of all (from 1) fails after so many tables are in force.
    Restore(usize, usize),
    /// The `n`th restore succeeds, and the kernel holds a rule more than it was given.
    Distort(usize),
}

/// A change of live rules by somebody else.
type Meddling = fn(&mut Dump);

/// The model.
#[derive(Debug, Default)]
pub struct Fake {
    /// The live rules.
    pub live: PerFamily<Dump>,
    /// What will go wrong.
    pub faults: Vec<Fault>,
    /// The families of all restores, in order.
    pub restores: Vec<Family>,
    saves: RefCell<usize>,
    /// Changes the live rules just before the `n`th save.
    pub meddler: Option<(usize, Meddling)>,
}

impl Fake {
    /// A host with these rules, in `iptables-save` format.
    pub fn new(v4: &str, v6: &str) -> Self {
        Self {
            live: PerFamily {
                v4: Dump::parse(v4).unwrap(),
                v6: Dump::parse(v6).unwrap(),
            },
            ..Self::default()
        }
    }

    fn refused(family: Family) -> Error {
        Error::Refused {
            family,
            refusal: Refusal::read("iptables-restore", "injected", ""),
        }
    }
}

impl Host for Fake {
    fn save(&self, family: Family) -> Result<Dump, Error> {
        *self.saves.borrow_mut() += 1;
        let number = *self.saves.borrow();
        if self.faults.contains(&Fault::Save(number)) {
            return Err(Self::refused(family));
        }
        let mut dump = self.live[family].clone();
        if let Some((at, change)) = self.meddler
            && number >= at
        {
            change(&mut dump);
        }
        Ok(dump)
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), Error> {
        self.restores.push(family);
        let number = self.restores.len();
        let loaded = Dump::parse(input).unwrap();
        for (index, table) in loaded.tables().enumerate() {
            if self.faults.contains(&Fault::Restore(number, index)) {
                return Err(Self::refused(family));
            }
            self.live[family].replace(loaded.only(&[table]));
        }
        if self.faults.contains(&Fault::Distort(number)) {
            let chains = self.live[family].chains_mut(Table::Filter);
            let chain: &mut Chain = chains.get_mut("INPUT").unwrap();
            chain.rules.push(Rule {
                spec: "-j DISTORTED".to_owned(),
                counters: Counters::default(),
            });
        }
        Ok(())
    }

    fn rehearse(
        &self,
        payload: &PerFamily<Option<String>>,
    ) -> Result<PerFamily<Option<Dump>>, Error> {
        if self.faults.contains(&Fault::Rehearse) {
            return Err(Self::refused(Family::V4));
        }
        Ok(PerFamily::from_fn(|family| {
            let text = payload[family].as_ref()?;
            Some(Dump::parse(text).unwrap())
        }))
    }
}
