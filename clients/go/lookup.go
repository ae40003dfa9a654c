package sessiond

import (
	"math"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// Nearly every request of a site is one Resolve or one Touch. Their messages are encoded and decoded here, without the
// generated code and its reflection: that halves what they cost. Whatever is not as the daemon sends it (an unknown
// order, a field twice, a wrong type) is left to the generated code, so that there is one truth about it. Tests hold both
// to each other.

// lookup is a Resolve or a Touch.
type lookup struct {
	kind       lookupKind
	engine     string
	credential Credential
	peek       bool          // of a Resolve
	create     bool          // of a Resolve
	duration   time.Duration // of a Touch; 0: as it was
}

// lookupKind is the number of the field in PipelineRequest and PipelineResponse.
type lookupKind protowire.Number

const (
	isResolve lookupKind = 2
	isTouch   lookupKind = 3
)

// found is the answer to a lookup, with its parts in one piece of memory.
type found struct {
	kind    lookupKind
	state   pb.SessionState
	live    bool // there is a session
	result  ResolveResult
	session Session
}

// received is a message of the Pipeline.
type received struct {
	sequence uint64
	found    *found               // the answer to a lookup
	message  *pb.PipelineResponse // any other
}

// message is what the generated code would encode.
func (l *lookup) message() *pb.PipelineRequest {
	credential := wireCredential(l.credential)
	if l.kind == isTouch {
		return &pb.PipelineRequest{Operation: &pb.PipelineRequest_Touch{Touch: &pb.TouchRequest{
			Engine: l.engine, Credential: credential, Duration: wireDuration(l.duration),
		}}}
	}
	return &pb.PipelineRequest{Operation: &pb.PipelineRequest_Resolve{Resolve: &pb.ResolveRequest{
		Engine: l.engine, Credential: credential, Peek: l.peek, Create: l.create,
	}}}
}

// longest is a bound of the encoded size.
func (l *lookup) longest() int { return 128 + len(l.engine) + len(l.credential.value) }

func (l *lookup) sizes() (credential, body int) {
	if l.engine != "" {
		body += 1 + protowire.SizeBytes(len(l.engine))
	}
	if l.credential.kind != 0 {
		credential = 1 + protowire.SizeBytes(len(l.credential.value))
		body += 1 + protowire.SizeBytes(credential)
	}
	if l.peek {
		body += 2
	}
	if l.create {
		body += 2
	}
	if l.duration != 0 {
		body += 1 + protowire.SizeBytes(sizeDuration(l.duration))
	}
	return credential, body
}

// size is the encoded size of the request.
func (l *lookup) size(sequence uint64, timeout time.Duration) int {
	_, body := l.sizes()
	return 1 + protowire.SizeVarint(sequence) + 1 + protowire.SizeBytes(body) + 1 + protowire.SizeBytes(sizeDuration(timeout))
}

// append encodes the request behind out.
func (l *lookup) append(out []byte, sequence uint64, timeout time.Duration) []byte {
	credential, body := l.sizes()
	out = protowire.AppendVarint(append(out, 1<<3), sequence)
	out = protowire.AppendVarint(append(out, byte(l.kind)<<3|2), uint64(body))
	if l.engine != "" {
		out = protowire.AppendString(append(out, 1<<3|2), l.engine)
	}
	if l.credential.kind != 0 {
		out = protowire.AppendVarint(append(out, 2<<3|2), uint64(credential))
		field := byte(1)
		if l.credential.kind == 't' {
			field = 2
		}
		out = protowire.AppendString(append(out, field<<3|2), l.credential.value)
	}
	if l.peek {
		out = append(out, 3<<3, 1)
	}
	if l.create {
		out = append(out, 4<<3, 1)
	}
	if l.duration != 0 {
		out = appendDuration(append(out, 3<<3|2), l.duration)
	}
	return appendDuration(append(out, 6<<3|2), timeout)
}

// sizeDuration is the size of a Duration that is not negative.
func sizeDuration(duration time.Duration) int {
	size := 0
	if seconds := duration / time.Second; seconds != 0 {
		size += 1 + protowire.SizeVarint(uint64(seconds))
	}
	if nanos := duration % time.Second; nanos != 0 {
		size += 1 + protowire.SizeVarint(uint64(nanos))
	}
	return size
}

func appendDuration(out []byte, duration time.Duration) []byte {
	out = append(out, byte(sizeDuration(duration)))
	if seconds := duration / time.Second; seconds != 0 {
		out = protowire.AppendVarint(append(out, 1<<3), uint64(seconds))
	}
	if nanos := duration % time.Second; nanos != 0 {
		out = protowire.AppendVarint(append(out, 2<<3), uint64(nanos))
	}
	return out
}

// decodeResponse decodes a message of the Pipeline. It keeps nothing of body.
func decodeResponse(body []byte) (received, error) {
	if decoded, ok := decodeFound(body); ok {
		return decoded, nil
	}
	message := new(pb.PipelineResponse)
	if err := proto.Unmarshal(body, message); err != nil {
		return received{}, err
	}
	decoded := received{sequence: message.GetSequence(), found: foundIn(message)}
	if decoded.found == nil {
		decoded.message = message
	}
	return decoded, nil
}

// foundIn is the answer to a lookup in a message; nil: it is another answer.
func foundIn(message *pb.PipelineResponse) *found {
	var from interface {
		GetState() pb.SessionState
		GetSession() *pb.Session
		GetSetCookie() []string
	}
	answer := new(found)
	switch result := message.GetResult().(type) {
	case *pb.PipelineResponse_Resolve:
		from, answer.kind, answer.result.Token = result.Resolve, isResolve, result.Resolve.GetToken()
	case *pb.PipelineResponse_Touch:
		from, answer.kind = result.Touch, isTouch
	default:
		return nil
	}
	answer.state, answer.result.SetCookie = from.GetState(), from.GetSetCookie()
	if session := from.GetSession(); session != nil {
		answer.live, answer.session = true, *sessionOf(session)
	}
	return answer
}

// fields is what is left of a message that is being decoded.
type fields struct {
	rest   []byte
	number protowire.Number
	kind   protowire.Type
	// seen has a bit for each field that must come once: of two, the generated code knows which one counts.
	seen uint32
	bad  bool
}

// next goes on to the next field. It reports false at the end, and if the message is not what is decoded here.
func (f *fields) next() bool {
	if len(f.rest) == 0 || f.bad {
		return false
	}
	number, kind, size := protowire.ConsumeTag(f.rest)
	if size < 0 {
		f.bad = true
		return false
	}
	f.number, f.kind, f.rest = number, kind, f.rest[size:]
	return true
}

// once takes a field that must not come twice.
func (f *fields) once() {
	bit := uint32(1) << (f.number & 31)
	f.bad = f.bad || f.seen&bit != 0
	f.seen |= bit
}

func (f *fields) varint() uint64 {
	value, size := protowire.ConsumeVarint(f.rest)
	if f.kind != protowire.VarintType || size < 0 {
		f.bad = true
		return 0
	}
	f.rest = f.rest[size:]
	return value
}

func (f *fields) bytes() []byte {
	value, size := protowire.ConsumeBytes(f.rest)
	if f.kind != protowire.BytesType || size < 0 {
		f.bad = true
		return nil
	}
	f.rest = f.rest[size:]
	return value
}

func (f *fields) text() []byte {
	value := f.bytes()
	f.bad = f.bad || !utf8.Valid(value)
	return value
}

// decodeFound decodes the answer to a lookup. It reports false if the message is another one, or unusual.
func decodeFound(body []byte) (received, bool) {
	var (
		decoded received
		result  []byte
	)
	f := fields{rest: body}
	for f.next() {
		switch f.number {
		case 1:
			f.once()
			decoded.sequence = f.varint()
		case 2, 3:
			if result != nil {
				return received{}, false
			}
			if result = f.bytes(); result == nil {
				return received{}, false
			}
			decoded.found = &found{kind: lookupKind(f.number)}
		default:
			return received{}, false
		}
	}
	if f.bad || result == nil || !decoded.found.decode(result) {
		return received{}, false
	}
	return decoded, true
}

func (a *found) decode(body []byte) bool {
	f := fields{rest: body}
	for f.next() {
		switch f.number {
		case 1:
			f.once()
			state := f.varint()
			f.bad = f.bad || state > math.MaxInt32
			a.state = pb.SessionState(state)
		case 2:
			f.once()
			a.live = true
			f.bad = f.bad || !a.session.decode(f.bytes())
		case 3:
			a.result.SetCookie = append(a.result.SetCookie, string(f.text()))
		case 4:
			f.once()
			f.bad = f.bad || a.kind != isResolve
			a.result.Token = string(f.text())
		default:
			return false
		}
	}
	return !f.bad
}

func (s *Session) decode(body []byte) bool {
	s.Data = []byte{}
	s.CreateTime, s.ExpireTime, s.LastUseTime = epoch, epoch, epoch
	f := fields{rest: body}
	for f.next() {
		f.once()
		switch f.number {
		case 1:
			s.ID = string(f.text())
		case 2:
			s.Data = append(s.Data, f.text()...)
		case 3:
			s.Version = f.varint()
		case 4:
			s.Principal = string(f.text())
		case 5:
			s.CreateTime = f.time()
		case 6:
			s.ExpireTime = f.time()
		case 7:
			s.Duration = f.duration()
		case 8:
			s.LastUseTime = f.time()
		case 9:
			s.Label = string(f.text())
		default:
			return false
		}
	}
	return !f.bad
}

var epoch = time.Unix(0, 0).UTC()

// timeOrDuration decodes a Timestamp or a Duration of usual size.
func (f *fields) timeOrDuration() (seconds, nanos int64) {
	inner := fields{rest: f.bytes()}
	for inner.next() {
		inner.once()
		switch inner.number {
		case 1:
			seconds = int64(inner.varint())
		case 2:
			nanos = int64(inner.varint())
		default:
			inner.bad = true
		}
	}
	// Years up to 2200: nothing overflows.
	f.bad = f.bad || inner.bad || seconds < 0 || seconds > 1<<33-1 || nanos < 0 || nanos >= int64(time.Second)
	return seconds, nanos
}

func (f *fields) time() time.Time { return time.Unix(f.timeOrDuration()).UTC() }

func (f *fields) duration() time.Duration {
	seconds, nanos := f.timeOrDuration()
	return time.Duration(seconds)*time.Second + time.Duration(nanos)
}

// codec encodes operations and decodes their answers, for the Pipeline.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is that of the format, which is what the daemon is told.
func (codec) Name() string { return "proto" }

// Marshal encodes an *operation.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	op := v.(*operation)
	var encode func([]byte) ([]byte, error)
	size := 0
	if op.lookup.kind != 0 {
		size = op.lookup.size(op.sequence, op.left)
		encode = func(out []byte) ([]byte, error) { return op.lookup.append(out, op.sequence, op.left), nil }
	} else {
		op.request.Sequence = op.sequence
		op.request.Timeout = durationpb.New(op.left)
		size = proto.Size(op.request)
		encode = func(out []byte) ([]byte, error) {
			return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(out, op.request)
		}
	}
	if mem.IsBelowBufferPoolingThreshold(size) {
		out, err := encode(make([]byte, 0, size))
		return mem.BufferSlice{mem.SliceBuffer(out)}, err
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	if _, err := encode((*buffer)[:0]); err != nil {
		pool.Put(buffer)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}

// Unmarshal decodes into a *received.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	decoded, err := decodeResponse(buffer.ReadOnlyData())
	*v.(*received) = decoded
	return err
}
