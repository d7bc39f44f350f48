//! Seals entries, so that whoever reads the store has nothing without the client secret.
//!
//! XChaCha20-Poly1305, with a random nonce for each entry. The key and the entry's name come from the secret by
//! HKDF-SHA256 (RFC 5869), with the context as info; version and name are authenticated with each entry.

use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, Payload},
};
use hkdf::Hkdf;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Of the format; another version is another entry.
const VERSION: &str = "sitecore-token-store 1";

const NONCE_BYTES: usize = 24;

/// Opens and closes the entries of one name.
pub(crate) struct Seal {
    name: String,
    cipher: XChaCha20Poly1305,
}

impl Seal {
    /// Derives name and key. The secret should have 32 bytes at least, else who reads an entry can try
    /// secrets on it.
    pub(crate) fn derive(secret: &SecretString, context: &str) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, secret.expose_secret().as_bytes());
        let mut key = Zeroizing::new([0; 32]);
        let mut name = [0; 16];
        for (purpose, output) in [("key", &mut key[..]), ("name", &mut name[..])] {
            let info = [VERSION, purpose, context].join("\n");
            hkdf.expand(info.as_bytes(), output)
                .expect("both are shorter than HKDF's longest output");
        }
        Self {
            name: name.iter().map(|byte| format!("{byte:02x}")).collect(),
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
        }
    }

    /// Returns the entry's name, which tells nothing of what it is derived from.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn close(&self, text: &[u8]) -> Vec<u8> {
        let nonce = XNonce::generate();
        let aad = self.authenticated();
        let payload = Payload { msg: text, aad: aad.as_bytes() };
        let sealed = self.cipher.encrypt(&nonce, payload);
        let sealed = sealed.expect("an entry is shorter than the cipher's longest text");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Returns the text; `None` if this is not an entry of this name and version, sealed with this key.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let aad = self.authenticated();
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        self.cipher.decrypt(&nonce, payload).ok().map(Zeroizing::new)
    }

    fn authenticated(&self) -> String {
        format!("{VERSION}\n{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_of_one_name_and_one_secret() {
        let secret = SecretString::from("a-secret-of-thirty-two-bytes-and-more");
        let seal = Seal::derive(&secret, "context");
        let entry = seal.close(b"text");
        assert_eq!(seal.open(&entry).as_deref(), Some(&b"text".to_vec()));
        let again = Seal::derive(&secret, "context");
        assert_eq!(again.name(), seal.name());
        assert!(again.open(&entry).is_some());
        assert_ne!(entry, seal.close(b"text"), "a nonce is used once");

        let other = Seal::derive(&secret, "another context");
        assert_ne!(other.name(), seal.name());
        let others = Seal::derive(&"another secret of thirty-two bytes".into(), "context");
        // With the right key too, under another name.
        let moved = Seal { name: other.name.clone(), ..again };
        for seal in [other, others, moved] {
            assert!(seal.open(&entry).is_none(), "{}", seal.name());
        }
    }
}
