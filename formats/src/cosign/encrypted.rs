//! cosign's encrypted private keys: JSON that names how a password becomes a key (scrypt), and a NaCl
//! secret box (XSalsa20, Poly1305) around PKCS#8.
//!
//! Format: secure-systems-lab/go-securesystemslib, encrypted. All binary values are base64.

use crypto_secretbox::{Key, KeyInit as _, Nonce, XSalsa20Poly1305, aead::Aead as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::KeyError;

/// The three strengths that the format knows: others would let a key file exhaust a machine. All have
/// r = 8 and p = 1.
const LOG_N: [(u64, u8); 3] = [(1 << 15, 15), (1 << 16, 16), (1 << 17, 17)];
const NONCE_LEN: usize = 24;
const KEY_LEN: usize = 32;

/// An encrypted key, read but not opened.
#[derive(Deserialize)]
pub(super) struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: Base64,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: Base64,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u64,
    p: u64,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: Base64,
}

struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

impl Encrypted {
    /// Reads the JSON within the PEM.
    pub fn parse(json: &[u8]) -> Result<Self, KeyError> {
        // What is wrong with it might be a secret's fault: the message names the place alone.
        let malformed = |error: serde_json::Error| {
            KeyError::Encryption(format!(
                "malformed JSON in line {}, column {}",
                error.line(),
                error.column()
            ))
        };
        let key: Self = serde_json::from_slice(json).map_err(malformed)?;
        if key.kdf.name != "scrypt" || key.cipher.name != "nacl/secretbox" {
            return Err(KeyError::Encryption("neither scrypt nor a secret box".to_owned()));
        }
        if key.cipher.nonce.0.len() != NONCE_LEN {
            return Err(KeyError::Encryption("a nonce of another length".to_owned()));
        }
        key.log_n().map(|_| key)
    }

    fn log_n(&self) -> Result<u8, KeyError> {
        let Params { n, r, p } = self.kdf.params;
        let known = LOG_N.iter().find(|(known, _)| (*known, 8, 1) == (n, r, p));
        known.map(|(_, log_n)| *log_n).ok_or_else(|| {
            KeyError::Encryption(format!("scrypt with N = {n}, r = {r}, p = {p}, which no tool writes"))
        })
    }

    /// Opens it: PKCS#8 in DER.
    pub fn open(&self, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let params = scrypt::Params::new(self.log_n()?, 8, 1)
            .map_err(|error| KeyError::Encryption(error.to_string()))?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        scrypt::scrypt(password, &self.kdf.salt.0, &params, key.as_mut_slice())
            .map_err(|error| KeyError::Encryption(error.to_string()))?;
        let secret_box = XSalsa20Poly1305::new(Key::from_slice(key.as_slice()));
        let nonce = Nonce::from_slice(&self.cipher.nonce.0);
        let opened = secret_box.decrypt(nonce, self.ciphertext.0.as_slice());
        opened.map(Zeroizing::new).map_err(|_| KeyError::Password)
    }
}
