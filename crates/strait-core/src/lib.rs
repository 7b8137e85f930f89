//! The contract of strait: envelope, records, deliveries, verdicts, engines and lanes. No client, no runtime.
