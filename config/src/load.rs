//! Where settings come from, in this order: defaults, the file, the environment, credentials.
//!
//! A later source overrides an earlier one, but for secrets: two sources for one secret are an error, since
//! one of them would silently be the wrong one.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use crate::{
    check::Problem,
    reader::{PREFIX, Reader},
    sections::Config,
};

/// What to read. The daemon's command line fills it; nothing here looks at the process by itself.
#[derive(Clone, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// The environment: `INBOXGROVE_<SECTION>__<KEY>`, deeper keys with more `__`; and systemd's
    /// `STATE_DIRECTORY`. Other variables are ignored.
    pub env: BTreeMap<String, String>,
    /// The directory of credentials (systemd's `$CREDENTIALS_DIRECTORY`): each file is named after the
    /// secret that it holds, as in `notifier.webhook_secret`.
    pub credentials: Option<PathBuf>,
}

/// All that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} {}:{}", .problems.len(), plural(.problems.len()), lines(.problems))]
pub struct ConfigError {
    /// Each thing that is wrong, by key.
    pub problems: Vec<Problem>,
}

// === impl Sources ===

/// Shows no values: some are secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field(
                "env",
                &self
                    .env
                    .keys()
                    .filter(|name| name.starts_with(PREFIX))
                    .collect::<Vec<_>>(),
            )
            .field("credentials", &self.credentials)
            .finish()
    }
}

// === impl Config ===

impl Config {
    /// Reads all sources. On error tells all that is wrong with all of them.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut reader = Reader::new();
        if let Some(file) = &sources.file {
            reader.file(file);
        }
        reader.environment(&sources.env);
        if let Some(directory) = &sources.credentials {
            reader.credentials(directory);
        }
        reader.finish(sources.env.get("STATE_DIRECTORY").map(String::as_str))
    }

    /// Reads one text as if it were the file.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader::new();
        reader.toml(text, "the text");
        reader.finish(None)
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "problem" } else { "problems" }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!(
        "
  {}",
        lines.join(
            "
  "
        )
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{schema, sections::outbound::TlsPolicy};

    fn told(text: &str) -> Vec<String> {
        let error = Config::from_toml(text).unwrap_err();
        error.problems.iter().map(ToString::to_string).collect()
    }

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn with_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(&Sources {
            env: env(pairs),
            ..Sources::default()
        })
    }

    #[test]
    fn nothing_is_a_working_configuration() {
        let config = Config::load(&Sources::default()).unwrap();
        assert_eq!(config.api.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.server.data_dir, Path::new("data"));
        assert_eq!(config.plan.len(), 4);
    }

    #[test]
    fn a_file_changes_only_what_it_names() {
        let text = r#"
            [outbound]
            tls = "required"
            [outbound.caps]
            global_per_day = 50_000
            [[outbound.sources]]
            address = "192.0.2.7"
            ehlo_name = "out1.example.net"
            [health.bounce]
            limit = 0.04
        "#;
        let config = Config::from_toml(text).unwrap();
        assert_eq!(config.outbound.tls, TlsPolicy::Required);
        assert_eq!(
            (
                config.outbound.caps.global_per_day,
                config.outbound.caps.global_per_hour
            ),
            (50_000, 20_000)
        );
        assert_eq!(config.outbound.sources[0].weight, 1);
        assert!((config.health.bounce.limit - 0.04).abs() < 1e-12);
        assert!((config.health.bounce.prior_good - 99.0).abs() < 1e-12);
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let text = r#"
            [server]
            hostnme = "mail.example.com"
            time_zone = "Mars/Olympus"
            [dns]
            port = 70000
            servers = ["192.0.2.1", "nowhere"]
            [inbound]
            trusted_gateways = ["192.0.2.1/24"]
            [log]
            format = "xml"
            [network]
            allow_private = "yes"
            [warmup]
            base = 30
            [[plan]]
            key = "a"
            name = "A"
            [[plan]]
            key = "a"
            [[outbound.sources]]
            weight = 1
        "#;
        let told = told(text);
        let expected = [
            "dns.port: expected a whole number from 1 to 65535, found 70000",
            "dns.servers[1]: expected an IP address, found \"nowhere\"",
            "inbound.trusted_gateways[0]: expected a range of addresses, as in `192.0.2.0/24`, found \"192.0.2.1/24\"",
            "log.format: expected one of `text`, `json`, found \"xml\"",
            "network.allow_private: expected `true` or `false`, found \"yes\"",
            "outbound.sources[0].address: expected an IP address, found nothing",
            "plan[1].name: expected a text of 1 to 80 characters, found nothing",
            "server.hostnme: expected a known key; did you mean `server.hostname`?, found an unknown key",
            "server.time_zone: expected an IANA time zone, as in `Europe/Berlin`, found \"Mars/Olympus\"",
            "warmup.base: expected at most `warmup.cap`, found 30",
        ];
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn plans_have_keys_of_their_own() {
        let told = told("[[plan]]\nkey='trial'\nname='A'\n[[plan]]\nkey='trial'\nname='B'");
        assert_eq!(
            told,
            ["plan[1].key: expected a key that no other plan has, found \"trial\""]
        );
        let error = Config::from_toml("[[plan]]\nkey='gold'\nname='Gold'")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("accounts.default_plan: expected the key of a `[[plan]]`"),
            "{error}"
        );
    }

    #[test]
    fn a_mistake_in_toml_is_told_by_line_and_quotes_nothing() {
        let told = told("[notifier]\nwebhook_secret = \"hunter2hunter2");
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("line 2") && !told[0].contains("hunter2"),
            "{}",
            told[0]
        );
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("inboxgrove.toml");
        fs::write(&file, "[dns]\nport = 5300\ntimeout_ms = 700").unwrap();
        let env = env(&[
            ("INBOXGROVE_DNS__PORT", "5301"),
            ("INBOXGROVE_OUTBOUND__CAPS__SOURCE_PER_HOUR", "7"),
            ("INBOXGROVE_DNS__SERVERS", "192.0.2.1, 2001:db8::1"),
            ("INBOXGROVE_NETWORK__ALLOW_PRIVATE", "true"),
            (
                "INBOXGROVE_OUTBOUND__SOURCES",
                "[{ address = '192.0.2.9' }]",
            ),
            ("INBOXGROVE_CONFIG", "/etc/inboxgrove.toml"),
            ("PATH", "/bin"),
        ]);
        let config = Config::load(&Sources {
            file: Some(file),
            env,
            credentials: None,
        })
        .unwrap();
        assert_eq!((config.dns.port, config.dns.timeout_ms), (5301, 700));
        assert_eq!(config.outbound.caps.source_per_hour, 7);
        assert_eq!(config.dns.servers.len(), 2);
        assert!(config.network.allow_private);
        assert_eq!(config.outbound.sources[0].address.to_string(), "192.0.2.9");
    }

    #[test]
    fn a_wrong_variable_is_told_by_its_name() {
        let error = with_env(&[
            ("INBOXGROVE_DNS__PORT", "many"),
            ("INBOXGROVE_DNS__PROT", "1"),
        ])
        .unwrap_err();
        let told: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        assert!(
            told[0].contains("found \"many\" (in the environment variable INBOXGROVE_DNS__PORT)"),
            "{told:?}"
        );
        assert!(told[1].contains("did you mean `dns.port`?"), "{told:?}");
    }

    #[test]
    fn the_state_directory_is_the_default_only() {
        let config = with_env(&[("STATE_DIRECTORY", "/var/lib/inboxgrove:/var/lib/x")]).unwrap();
        assert_eq!(config.server.data_dir, Path::new("/var/lib/inboxgrove"));
        let config = with_env(&[
            ("STATE_DIRECTORY", "/a"),
            ("INBOXGROVE_SERVER__DATA_DIR", "/b"),
        ])
        .unwrap();
        assert_eq!(config.server.data_dir, Path::new("/b"));
    }

    #[test]
    fn secrets_come_from_credentials_and_from_one_source_only() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        at("notifier.webhook_secret", "correct horse battery\n");
        at("somebody-elses.pem", "x");
        let credentials = Some(directory.path().to_owned());
        let load = |env| {
            Config::load(&Sources {
                file: None,
                env,
                credentials: credentials.clone(),
            })
        };
        let config = load(env(&[])).unwrap();
        assert_eq!(
            config.notifier.webhook_secret.expose(),
            Some("correct horse battery")
        );

        let error = load(env(&[(
            "INBOXGROVE_NOTIFIER__WEBHOOK_SECRET",
            "another one",
        )]))
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("notifier.webhook_secret: expected one source for a secret"),
            "{error}"
        );
        assert!(
            !error.contains("horse") && !error.contains("another one"),
            "{error}"
        );

        at("notifier.webhook_url", "https://example.com");
        let error = load(env(&[])).unwrap_err().to_string();
        assert!(
            error.contains("notifier.webhook_url: expected a secret"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_a_problem_of_its_own() {
        let file = Some(PathBuf::from("/nonexistent/inboxgrove.toml"));
        let error = Config::load(&Sources {
            file,
            ..Sources::default()
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("/nonexistent/inboxgrove.toml"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,200}") {
            drop(Config::from_toml(&text));
        }

        #[test]
        fn every_unknown_key_is_refused(key in "[a-z]{4,12}", value in 0_i64..9) {
            let root = schema::root();
            prop_assume!(root.at(["dns", &key]).is_none());
            let error = Config::from_toml(&format!("[dns]\n{key} = {value}")).unwrap_err();
            let path = format!("dns.{key}");
            let told = error.problems.iter().any(|problem| problem.key == path);
            prop_assert!(told);
        }
    }
}
