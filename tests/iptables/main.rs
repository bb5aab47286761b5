//! The iptables model against the corpus, the traps and itself.

mod corpus;
