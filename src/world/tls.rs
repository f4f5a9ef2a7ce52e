//! TLS for WebSockets and HTTP alike: one provider, one set of roots. Hides rustls.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    ServerConnection, SignatureAlgorithm, SignatureScheme, Stream, StreamOwned,
};

use crate::cli::table::{Flag, Set, store};

/// What a user can say about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsArgs {
    /// More roots, in PEM.
    pub cacert: Option<PathBuf>,
    /// Our own certificate and those above it, in PEM.
    pub cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// Believe any server.
    pub insecure: bool,
}

/// The rows of every program that speaks TLS.
pub const fn flags<A: AsMut<TlsArgs>>() -> [Flag<A>; 4] {
    [
        Flag {
            spec: "--cacert FILE",
            help: "believe the certificates in FILE (PEM) as well as the system's",
            set: Set::Value(|a, v| store(&mut a.as_mut().cacert, v)),
        },
        Flag {
            spec: "--cert FILE",
            help: "show the client certificate in FILE (PEM). Needs --key",
            set: Set::Value(|a, v| store(&mut a.as_mut().cert, v)),
        },
        Flag {
            spec: "--key FILE",
            help: "the client certificate's private key (PEM)",
            set: Set::Value(|a, v| store(&mut a.as_mut().key, v)),
        },
        Flag {
            spec: "--insecure",
            help: "do not verify the server's certificate. Anyone on the way can then read and change everything",
            set: Set::Switch(|a| a.as_mut().insecure = true),
        },
    ]
}

/// The provider of all cryptography; ring needs nothing but a C compiler.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// The files of [`TlsArgs`], read and understood. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Loaded>);

struct Loaded {
    extra_roots: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
    insecure: bool,
    roots: OnceLock<Vec<CertificateDer<'static>>>,
    config: OnceLock<Arc<ClientConfig>>,
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("insecure", &self.0.insecure).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the flag, the file and the cause.
    pub fn load(args: &TlsArgs) -> Result<Tls, String> {
        let extra_roots =
            args.cacert.as_ref().map(|path| certificates("--cacert", path)).transpose()?.unwrap_or_default();
        let identity = match (&args.cert, &args.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Identity::read("--cert", cert, "--key", key)?),
            (Some(_), None) => return Err("--cert: needs --key".to_owned()),
            (None, Some(_)) => return Err("--key: needs --cert".to_owned()),
        };
        let tls = Tls(Arc::new(Loaded {
            extra_roots,
            identity,
            insecure: args.insecure,
            roots: OnceLock::new(),
            config: OnceLock::new(),
        }));
        if tls.0.identity.is_some() {
            // A key that does not fit its certificate is found out now, not at the first connection.
            tls.client_config().map_err(|error| format!("--cert: {error}"))?;
        }
        Ok(tls)
    }

    /// Whether any server is believed.
    pub fn is_insecure(&self) -> bool {
        self.0.insecure
    }

    /// All roots: the system's (or, where there are none, Mozilla's) and those of `--cacert`. The system's are read at the first call.
    fn all_roots(&self) -> &[CertificateDer<'static>] {
        self.0.roots.get_or_init(|| {
            let mut roots = rustls_native_certs::load_native_certs().certs;
            if roots.is_empty() {
                // A container from scratch has none.
                roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec();
            }
            roots.extend_from_slice(&self.0.extra_roots);
            roots
        })
    }

    /// The configuration for a connection of our own making.
    ///
    /// # Errors
    /// The client certificate and its key do not fit.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        // Made once: it holds all roots, and the sessions that can be resumed.
        if let Some(config) = self.0.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.make_client_config()?;
        Ok(Arc::clone(self.0.config.get_or_init(|| config)))
    }

    fn make_client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = if self.0.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnyone))
        } else {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(self.all_roots().iter().cloned());
            let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
            let usual = usual.map_err(|error| format!("no usable root certificates: {error}"))?;
            let named = self.0.extra_roots.clone();
            builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveNamed { usual, named }))
        };
        let config = match &self.0.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| error.to_string())?,
        };
        Ok(Arc::new(config))
    }
}

/// A client's end of an encrypted connection over `S`.
pub struct Encrypted<S: Read + Write>(StreamOwned<ClientConnection, S>);

impl<S: Read + Write> Encrypted<S> {
    /// Shakes hands over a connected socket that blocks, under whatever deadline the socket itself keeps.
    ///
    /// # Errors
    /// The handshake failed; [`certificate_error`] tells whether because of the certificate.
    pub fn connect(tls: &Tls, host: &str, mut socket: S) -> io::Result<Encrypted<S>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no name a certificate can hold"))?;
        let config = tls.client_config().map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Encrypted(StreamOwned::new(connection, socket)))
    }

    /// The socket below.
    pub fn socket(&self) -> &S {
        &self.0.sock
    }

    /// The socket below.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.0.sock
    }

    /// Queues the end of the encrypted stream; the next flush sends it.
    pub fn close(&mut self) {
        self.0.conn.send_close_notify();
    }
}

impl<S: Read + Write> Read for Encrypted<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self.0.read(room) {
            // It wanted to write first, and the server has gone; what it said before that (a TLS alert) can still be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.0.conn.read_tls(&mut self.0.sock)?;
                self.0.conn.process_new_packets().map_err(io::Error::other)?;
                Err(error)
            }
            result => result,
        }
    }
}

impl<S: Read + Write> Write for Encrypted<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The cause, if a TLS connection failed because one side does not believe the other: no retry mends that.
pub fn certificate_error(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(cause)) = error.downcast_ref() {
        let cause = match format!("{cause}") {
            own if own.contains("CaUsedAsEndEntity") => {
                "it is a CA's own; give it with --cacert if it is the right one".to_owned()
            }
            own if own.contains("UnknownIssuer") => {
                "its CA is unknown here (UnknownIssuer); give that CA with --cacert if it is the right one".to_owned()
            }
            other => other,
        };
        return Some(format!("the server's certificate is not accepted: {cause}"));
    }
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner
        .map(|inner| inner as &(dyn std::error::Error + 'static))
        .or_else(|| error.source())
        .and_then(certificate_error)
}

/// An RSA key that signs texts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RsaKey(Arc<dyn SigningKey>);

impl RsaKey {
    /// Reads a private key in PEM.
    ///
    /// # Errors
    /// Names the flag, the file and the cause.
    pub fn load(flag: &str, path: &Path) -> Result<RsaKey, String> {
        let key = provider().key_provider.load_private_key(private_key(flag, path)?);
        let key = key.map_err(|_| format!("{flag}: {}: a key of a kind that is not known", path.display()))?;
        if key.algorithm() == SignatureAlgorithm::RSA {
            Ok(RsaKey(key))
        } else {
            Err(format!("{flag}: {}: not an RSA key", path.display()))
        }
    }

    /// The signature of `text`: PKCS #1 v1.5 with SHA-256.
    pub fn sign(&self, text: &[u8]) -> Vec<u8> {
        let signer = self.0.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).expect("every RSA key can do that");
        signer.sign(text).expect("a key that was loaded signs")
    }
}

/// What a server shows its clients. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Reads the certificate with those above it, and its key, both in PEM.
    ///
    /// # Errors
    /// Names the flag, the file and the cause.
    pub fn load(cert: &Path, key: &Path) -> Result<ServerTls, String> {
        let identity = Identity::read("--tls-cert", cert, "--tls-key", key)?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
        let config = builder.with_single_cert(identity.chain, identity.key);
        config.map(|config| ServerTls(Arc::new(config))).map_err(|error| format!("--tls-cert: {error}"))
    }

    /// A new client's session, its handshake still to come.
    ///
    /// # Errors
    /// The configuration allows none.
    pub fn session(&self) -> Result<ServerSession, String> {
        ServerConnection::new(Arc::clone(&self.0)).map(ServerSession).map_err(|error| error.to_string())
    }
}

/// A server's side of TLS over a socket that does not block. The handshake happens within the first reads.
pub struct ServerSession(ServerConnection);

impl ServerSession {
    /// Reads plain bytes; 0 is the end, with or without a goodbye.
    ///
    /// # Errors
    /// As the socket, `WouldBlock` included; `InvalidData` if the other side does not speak TLS.
    pub fn read(&mut self, socket: &mut (impl Read + Write), room: &mut [u8]) -> io::Result<usize> {
        match Stream::new(&mut self.0, socket).read(room) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            result => result,
        }
    }

    /// Takes plain bytes; what is not sent yet goes with the next flush.
    ///
    /// # Errors
    /// As the socket, `WouldBlock` included.
    pub fn write(&mut self, socket: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<usize> {
        match Stream::new(&mut self.0, socket).write(bytes) {
            // Its own buffer is full, which the socket is to be blamed for.
            Ok(0) if !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        }
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// As the socket, `WouldBlock` included.
    pub fn flush(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        Stream::new(&mut self.0, socket).flush()
    }

    /// Tells the other side that nothing more comes.
    pub fn say_goodbye(&mut self, socket: &mut (impl Read + Write)) {
        self.0.send_close_notify();
        // Whoever is not there to read it has gone already.
        let _ = self.flush(socket);
    }
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(path).map_err(|error| format!("{flag}: {}: {error}", path.display()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{flag}: {}: not a PEM certificate", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{flag}: {}: no certificate in it", path.display()));
    }
    Ok(certificates)
}

impl Identity {
    fn read(cert_flag: &str, cert: &Path, key_flag: &str, key: &Path) -> Result<Identity, String> {
        let chain = certificates(cert_flag, cert)?;
        Ok(Identity { chain, key: private_key(key_flag, key)? })
    }
}

fn private_key(flag: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = fs::read(path).map_err(|error| format!("{flag}: {}: {error}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| format!("{flag}: {}: no private key in it", path.display()))
}

/// The usual verification, and beyond it a server that shows the very certificate the user gave with `--cacert`, although it is a CA's: what
/// `openssl req -x509` makes and appliances ship. Its name and its time are still checked.
#[derive(Debug)]
struct BelieveNamed {
    usual: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for BelieveNamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // webpki looks at the time before it finds that the certificate is a CA's.
            Err(error) if is_ca_as_server(&error) && self.named.iter().any(|named| named == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// webpki's own error type is not among rustls', so its name is all there is.
fn is_ca_as_server(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string().contains("CaUsedAsEndEntity"))
}

/// `--insecure`: signatures are still checked, so that the connection is encrypted to whoever answers.
#[derive(Debug)]
struct BelieveAnyone;

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
