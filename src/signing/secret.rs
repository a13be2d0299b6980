//! Secret keys, as minisign writes them, and signing.
//!
//! ```text
//! base64 of: "Ed", "Sc" or 0 0 (no password), "B2", salt (32), opslimit (8), memlimit (8),
//!            and, xored with scrypt(password): key id (8), seed (32), public key (32), checksum (32)
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use scrypt::{Params, scrypt};

use super::format::{ALGORITHM, KEY_ALGORITHM, TRUSTED, UNTRUSTED, array, hash, with_comment};
use super::key::PublicKey;
use super::rules::Rules;
use super::text::signed_text;
use crate::kind::HasKind;
use crate::protocol::ids::{App, KeyId};
use crate::protocol::record::{Build, Signature};

/// The length of the whole key, of its open head, and of its sealed rest.
const BYTES: usize = 158;
const HEAD_BYTES: usize = 54;
const SEALED_BYTES: usize = BYTES - HEAD_BYTES;
/// The longest time and the most memory that minisign itself asks of scrypt: a larger number would stop the machine.
const MOST_OPS: u64 = 1 << 25;
const MOST_MEMORY_BYTES: u64 = 1 << 30;

/// Why a secret key cannot be used. No message contains any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretKeyError {
    #[error("it is damaged: its parts do not fit each other")]
    Damaged,
    #[error("its password takes more memory or time than minisign ever asks for")]
    Demanding,
    #[error("it is not a secret key of minisign")]
    NotAKey,
    #[error("it is the public key; signing needs the secret one")]
    Public,
    #[error("the password is wrong")]
    WrongPassword,
}

impl HasKind for SecretKeyError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Demanding => "demanding",
            Self::NotAKey => "not_a_key",
            Self::Public => "public",
            Self::WrongPassword => "wrong_password",
        }
    }
}

/// The content of a secret key file.
#[derive(Debug)]
pub(crate) enum SecretKeyFile {
    /// Made by `minisign -G`.
    Encrypted(EncryptedKey),
    /// Made by `minisign -GW`.
    Plain(SecretKey),
}

impl SecretKeyFile {
    /// Reads the text of a key file.
    ///
    /// # Errors
    ///
    /// [`SecretKeyError`].
    pub(crate) fn parse(text: &str) -> Result<Self, SecretKeyError> {
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        if PublicKey::parse(line).is_ok() {
            return Err(SecretKeyError::Public);
        }
        let bytes: [u8; BYTES] =
            BASE64.decode(line).ok().and_then(|bytes| array(&bytes)).ok_or(SecretKeyError::NotAKey)?;
        let [algorithm, derivation, checksum] = [bytes.get(..2), bytes.get(2..4), bytes.get(4..6)];
        if algorithm != Some(KEY_ALGORITHM) || checksum != Some(b"B2") {
            return Err(SecretKeyError::NotAKey);
        }
        match derivation {
            Some(b"Sc") => Ok(Self::Encrypted(EncryptedKey { bytes })),
            Some([0, 0]) => {
                let sealed = bytes.get(HEAD_BYTES..).and_then(array).ok_or(SecretKeyError::NotAKey)?;
                SecretKey::open(&sealed).map(Self::Plain)
            }
            Some(_) | None => Err(SecretKeyError::NotAKey),
        }
    }
}

/// A secret key that needs a password.
pub(crate) struct EncryptedKey {
    bytes: [u8; BYTES],
}

impl EncryptedKey {
    /// Opens the key. Takes seconds and a gigabyte of memory: minisign makes its keys so.
    ///
    /// # Errors
    ///
    /// [`SecretKeyError`].
    pub(crate) fn open(&self, password: &str) -> Result<SecretKey, SecretKeyError> {
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        let number = |from: usize| array(part(from, from + 8)).map_or(u64::MAX, u64::from_le_bytes);
        let params = params(number(38), number(46))?;
        let mut stream = [0; SEALED_BYTES];
        scrypt(password.as_bytes(), part(6, 38), &params, &mut stream).map_err(|_| SecretKeyError::Demanding)?;
        for (byte, sealed) in stream.iter_mut().zip(part(HEAD_BYTES, BYTES)) {
            *byte ^= sealed;
        }
        SecretKey::open(&stream).map_err(|_| SecretKeyError::WrongPassword)
    }
}

impl fmt::Debug for EncryptedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A key as minisign would write it with a password, from one without.
#[cfg(test)]
pub(super) fn sealed(plain: &[u8], password: &str, ops: u64, memory_bytes: u64) -> Vec<u8> {
    let salt = [7; 32];
    let keys = &plain[HEAD_BYTES..BYTES - 32];
    let checksum = Blake2b::<U32>::new().chain_update(KEY_ALGORITHM).chain_update(keys).finalize();
    let mut stream = [0; SEALED_BYTES];
    scrypt(password.as_bytes(), &salt, &params(ops, memory_bytes).unwrap(), &mut stream).unwrap();
    let rest: Vec<u8> = keys.iter().chain(checksum.as_slice()).zip(stream).map(|(byte, key)| byte ^ key).collect();
    [b"EdScB2".as_slice(), &salt, &ops.to_le_bytes(), &memory_bytes.to_le_bytes(), &rest].concat()
}

/// The parameters of scrypt that libsodium takes for these limits (`pickparams` of `crypto_pwhash_scryptsalsa208sha256`).
fn params(ops: u64, memory_bytes: u64) -> Result<Params, SecretKeyError> {
    const R: u64 = 8;
    if ops > MOST_OPS || memory_bytes > MOST_MEMORY_BYTES {
        return Err(SecretKeyError::Demanding);
    }
    let ops = ops.max(32_768);
    let is_small = ops < memory_bytes / 32;
    let most = if is_small { ops / (R * 4) } else { memory_bytes / (R * 128) };
    let log_n = (1..63_u8).find(|log_n| 1_u64 << log_n > most / 2).ok_or(SecretKeyError::Demanding)?;
    let p = if is_small { 1 } else { ((ops / 4) >> log_n) / R };
    let p = u32::try_from(p).map_err(|_| SecretKeyError::Demanding)?;
    Params::new(log_n, 8, p).map_err(|_| SecretKeyError::NotAKey)
}

/// A secret key that can sign.
pub(crate) struct SecretKey {
    id: [u8; 8],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SecretKey {
    /// Takes the key apart. Its checksum must fit; minisign writes none, zeros, into a key without a password.
    fn open(opened: &[u8; SEALED_BYTES]) -> Result<Self, SecretKeyError> {
        let (keys, checksum) = opened.split_at(72);
        let digest = Blake2b::<U32>::new().chain_update(KEY_ALGORITHM).chain_update(keys).finalize();
        if checksum != digest.as_slice() && checksum.iter().any(|byte| *byte != 0) {
            return Err(SecretKeyError::Damaged);
        }
        let [id, seed, public] = [keys.get(..8), keys.get(8..40), keys.get(40..)].map(Option::unwrap_or_default);
        let id = array(id).ok_or(SecretKeyError::Damaged)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| SecretKeyError::Damaged)?;
        let public = PublicKey::of(&[KEY_ALGORITHM, &id, pair.public_key().as_ref()].concat());
        Ok(Self { id, pair, public: public.ok_or(SecretKeyError::Damaged)? })
    }

    /// The key that checks what this one signs.
    #[cfg(test)]
    pub(super) fn public(&self) -> PublicKey {
        self.public.clone()
    }

    #[must_use]
    pub(crate) fn id(&self) -> KeyId {
        KeyId::of(self.id)
    }

    /// Whether a record has a signature of this key that fits it.
    #[must_use]
    pub(crate) fn has_signed(&self, app: &App, build: &Build) -> bool {
        Rules { required: true, keys: vec![self.public.clone()] }.check(app, build).is_ok()
    }

    /// Signs a build. Its comment has no time: the same build and key always give the same signature.
    #[must_use]
    pub(crate) fn sign(&self, app: &App, build: &Build) -> Signature {
        self.sign_text(&signed_text(app, build), &format!("cutover {app}/{}", build.artifact))
    }

    fn sign_text(&self, text: &str, comment: &str) -> Signature {
        let signature = self.pair.sign(&hash(text));
        let of_comment = self.pair.sign(&with_comment(signature.as_ref(), comment));
        let signed = BASE64.encode([ALGORITHM, &self.id, signature.as_ref()].concat());
        let of_comment = BASE64.encode(of_comment.as_ref());
        format!("{UNTRUSTED} signed by cutover publish\n{signed}\n{TRUSTED}{comment}\n{of_comment}\n").into()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret key {}", self.id())
    }
}
