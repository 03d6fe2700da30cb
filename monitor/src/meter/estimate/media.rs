//! Images, documents and sound in a request: what they are by their first bytes, and how large.

use base64::Engine as _;

use super::super::json::Place;

/// What of a request is not text.
#[derive(Debug, Default)]
pub struct Media {
    pub images: Vec<Image>,
    /// Images beyond those.
    pub more_images: u64,
    /// Bytes of documents.
    pub documents: u64,
    /// Bytes of sound.
    pub sound: u64,
    /// First bytes of the string that is being read, as written.
    begin: Vec<u8>,
    length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Pixels, where they are known: what a URL names is not seen, and some formats hide it deep inside.
    pub size: Option<(u32, u32)>,
    /// The request asks for a coarse look.
    pub is_coarse: bool,
}

/// Images that are kept apart.
const IMAGES: usize = 64;
/// First bytes of a string that are kept: enough for the head of an image, in base64.
const BEGIN: usize = 2048;
/// Members that hold media.
fn is_media(name: &str) -> bool {
    matches!(name, "url" | "data" | "image_url" | "images" | "bytes" | "file_data" | "image")
}

enum Found {
    Image(Option<(u32, u32)>),
    Document,
    Sound,
}

impl Media {
    pub fn begin(&mut self, place: Place<'_>) {
        self.begin.clear();
        self.length = 0;
        if place.member != "detail" && !is_media(place.member) {
            self.length = u64::MAX;
        }
    }

    pub fn piece(&mut self, text: &[u8]) {
        if self.length == u64::MAX {
            return;
        }
        self.length = self.length.saturating_add(text.len() as u64);
        let room = BEGIN.saturating_sub(self.begin.len());
        self.begin.extend_from_slice(text.get(..text.len().min(room)).unwrap_or_default());
    }

    pub fn end(&mut self, place: Place<'_>) {
        if self.length == u64::MAX {
            return;
        }
        if place.member == "detail" {
            if let Some(image) = self.images.last_mut() {
                image.is_coarse |= self.begin == b"low";
            }
            return;
        }
        let bytes = self.length / 4 * 3;
        match self.found(place) {
            Some(Found::Image(size)) if self.images.len() < IMAGES => {
                self.images.push(Image { size, is_coarse: false });
            }
            Some(Found::Image(_)) => self.more_images += 1,
            Some(Found::Document) => self.documents = self.documents.saturating_add(bytes),
            Some(Found::Sound) => self.sound = self.sound.saturating_add(bytes),
            None => {}
        }
    }

    fn found(&self, place: Place<'_>) -> Option<Found> {
        let text = self.begin.as_slice();
        if text.starts_with(b"http") {
            return matches!(place.member, "url" | "image_url").then_some(Found::Image(None));
        }
        let data = if text.starts_with(b"data:") { text.get(memchr::memchr(b',', text)? + 1..)? } else { text };
        let whole = data.get(..data.len() / 4 * 4)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(whole).ok()?;
        of_bytes(&bytes)
    }
}

fn of_bytes(bytes: &[u8]) -> Option<Found> {
    let be32 = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let le16 = |at: usize| Some(u32::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)));
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(Found::Image(be32(16).zip(be32(20))));
    }
    if bytes.starts_with(b"GIF8") {
        return Some(Found::Image(le16(6).zip(le16(8))));
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return Some(Found::Image(jpeg_size(bytes)));
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        let size = (bytes.get(12..16) == Some(b"VP8 ")).then(|| le16(26).zip(le16(28))).flatten();
        return Some(Found::Image(size.map(|(width, height)| (width & 0x3fff, height & 0x3fff))));
    }
    if bytes.starts_with(b"%PDF") {
        return Some(Found::Document);
    }
    let is_sound =
        [&b"RIFF"[..], b"ID3", b"OggS", b"fLaC", b"\xff\xfb", b"\xff\xf3"].iter().any(|begin| bytes.starts_with(begin));
    is_sound.then_some(Found::Sound)
}

/// From the first frame header (ITU-T T.81 §B.2.2), if it is near enough.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [0xff, marker] = *bytes.get(at..)?.first_chunk()? else { return None };
        let be16 = |at: usize| Some(u32::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            return be16(at + 7).zip(be16(at + 5));
        }
        at += 2 + usize::try_from(be16(at + 2)?).ok()?;
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::{Image, Media};
    use crate::meter::json::Place;

    fn seen(member: &str, text: &str) -> Media {
        let mut media = Media::default();
        let place = Place { member, top: "messages", is_free: false };
        media.begin(place);
        media.piece(text.as_bytes());
        media.end(place);
        media
    }

    #[test]
    fn the_head_of_an_image_tells_its_size() {
        let png =
            [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &640_u32.to_be_bytes(), &480_u32.to_be_bytes(), &[0; 100]].concat();
        let jpeg = [&b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\x01\xe0\x02\x80"[..], &[0; 40]].concat();
        for bytes in [png, jpeg] {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            let expected = [Image { size: Some((640, 480)), is_coarse: false }];
            assert_eq!(seen("data", &text).images, expected);
            assert_eq!(seen("url", &format!("data:image/png;base64,{text}")).images, expected);
        }
        assert_eq!(seen("url", "https://example.com/cat.png").images, [Image { size: None, is_coarse: false }]);
        assert!(seen("data", "nothing that is known").images.is_empty());
        assert!(seen("content", "https://example.com/cat.png").images.is_empty());
    }

    #[test]
    fn documents_and_sound_are_counted_by_their_bytes() {
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let pdf = [b"%PDF-1.4\n".as_slice(), &[b'x'; 99_991]].concat();
        assert!(seen("file_data", &encode(&pdf)).documents.abs_diff(100_000) < 4);
        assert!(seen("data", &encode(&[b"ID3".as_slice(), &[0; 29_997]].concat())).sound.abs_diff(30_000) < 4);
    }

    #[test]
    fn hostile_heads_do_no_harm() {
        for bytes in
            [&b"\xff\xd8\xff"[..], b"\xff\xd8\xff\xe0\xff\xff", b"\x89PNG\r\n\x1a\n\0", b"RIFF1234WEBPVP8 ", b"GIF8"]
        {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            let _ = seen("data", &text);
        }
    }
}
