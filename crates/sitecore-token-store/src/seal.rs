//! Seals entries, so that a reader of the store learns nothing without the client secret.
//!
//! The cipher is XChaCha20-Poly1305 with a random nonce for each entry. HKDF-SHA256 (RFC 5869)
//! derives the key and the entry's name from the secret, with the context as info. Each entry
//! authenticates its version and name.

use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, Payload},
};
use hkdf::Hkdf;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The version of the format. Each version has entries of its own.
const VERSION: &str = "sitecore-token-store 3";

const NONCE_BYTES: usize = 24;

/// Returns a random number from the operating system, so that two clones of one virtual machine get
/// different ones. It is the start of a random nonce.
pub(crate) fn random_id() -> u128 {
    let nonce: [u8; NONCE_BYTES] = XNonce::generate().into();
    u128::from_ne_bytes(*nonce.first_chunk().expect("a nonce of 24 bytes"))
}

/// Seals and opens the entries of one name.
pub(crate) struct Seal {
    name: String,
    cipher: XChaCha20Poly1305,
}

impl Seal {
    /// Derives the name and the key. A secret shorter than 32 bytes could be brute-forced from an
    /// entry.
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
            name: format!("{:032x}", u128::from_be_bytes(name)),
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
        }
    }

    /// Returns the entry's name, which reveals nothing about the secret or the context.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn seal(&self, text: &[u8]) -> Vec<u8> {
        let nonce = XNonce::generate();
        let aad = self.associated_data();
        let payload = Payload { msg: text, aad: aad.as_bytes() };
        let sealed = self.cipher.encrypt(&nonce, payload);
        let sealed = sealed.expect("an entry is shorter than the cipher's longest text");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Returns the text, or `None` if this is not an entry of this name and version that was sealed
    /// with this key.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let aad = self.associated_data();
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        self.cipher.decrypt(&nonce, payload).ok().map(Zeroizing::new)
    }

    fn associated_data(&self) -> String {
        format!("{VERSION}\n{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_opens_only_with_its_own_name_and_secret() {
        let secret = SecretString::from("a-secret-of-thirty-two-bytes-and-more");
        let seal = Seal::derive(&secret, "context");
        let entry = seal.seal(b"text");
        assert_eq!(seal.open(&entry).as_deref(), Some(&b"text".to_vec()));
        let again = Seal::derive(&secret, "context");
        assert_eq!(again.name(), seal.name());
        assert!(again.open(&entry).is_some());
        assert_ne!(entry, seal.seal(b"text"), "each nonce is used once");

        let other_context = Seal::derive(&secret, "another context");
        assert_ne!(other_context.name(), seal.name());
        let other_secret = Seal::derive(&"another secret of thirty-two bytes".into(), "context");
        let other_name = Seal { name: other_context.name.clone(), ..again };
        for seal in [other_context, other_secret, other_name] {
            assert!(seal.open(&entry).is_none(), "{}", seal.name());
        }
    }
}
