//! How tonic keeps messages: the generated services use this codec.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a stream gathers before it goes on its way, and the buffer it is gathered
/// in. tonic begins with 8 KiB and gathers 32: it copies all of it twice while the
/// buffer grows. A pipeline's answers fit in here.
const GATHERED_BYTES: usize = 16 << 10;
const ENCODING: (usize, usize) = (2 * GATHERED_BYTES, GATHERED_BYTES);

/// protobuf, in buffers that fit.
#[derive(Debug, Clone)]
pub struct WireCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WireCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for WireCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(ENCODING.0, ENCODING.1))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::default())
    }
}
