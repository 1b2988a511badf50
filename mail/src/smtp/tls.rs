//! TLS for SMTP: one crypto backend, certificates judged at the time the clock port tells.

use std::{fmt, sync::Arc};

use inboxgrove_model::ports::Clock;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Whom the client believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The roots of the web: the name must match (MTA-STS, smarthosts).
    Web,
    /// These roots only.
    Roots(Vec<CertificateDer<'static>>),
    /// Anybody who holds the key of the certificate shown: opportunistic encryption (RFC 7435). It keeps
    /// listeners out and proves no name, so never use it where a policy asks for a verified peer.
    Anybody,
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("no TLS configuration for {role}")]
pub struct TlsConfigError {
    role: &'static str,
    #[source]
    source: rustls::Error,
}

/// The clock port as rustls wants it.
struct WallClock(Arc<dyn Clock>);

/// Checks that the peer holds the key of its certificate, and nothing else.
#[derive(Debug)]
struct KeyOnly {
    provider: Arc<CryptoProvider>,
}

/// The configuration of a client that believes `trust`.
pub fn client_config(
    trust: Trust,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let bad = |source| TlsConfigError {
        role: "the SMTP client",
        source,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(WallClock(clock)))
            .with_safe_default_protocol_versions()
            .map_err(bad)?;
    let roots = match trust {
        Trust::Web => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        Trust::Roots(certificates) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots.add(certificate).map_err(bad)?;
            }
            roots
        }
        Trust::Anybody => {
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(KeyOnly { provider }));
            return Ok(Arc::new(builder.with_no_client_auth()));
        }
    };
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// The configuration of a server with its certificate chain, leaf first.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let bad = |source| TlsConfigError {
        role: "the SMTP server",
        source,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_details(provider, Arc::new(WallClock(clock)))
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(bad)?;
    Ok(Arc::new(config))
}

// === impl WallClock ===

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.wall().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            secs,
        )))
    }
}

// === impl KeyOnly ===

impl ServerCertVerifier for KeyOnly {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
