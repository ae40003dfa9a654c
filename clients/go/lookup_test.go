package sessiond

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/sessiond/sessiond/clients/go/internal/sessiondpb"
)

// random makes what messages are made of.
type random struct{ *rand.Rand }

func (r random) text() string {
	// Lengths with one, two and three octets.
	length := []int{0, 0, 1, 16, 127, 128, 400, 20_000}[r.IntN(8)]
	return strings.Repeat("é☃a\x00", length)[:length/7*7]
}

func (r random) time() *timestamppb.Timestamp {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		return &timestamppb.Timestamp{Seconds: int64(r.Uint64()), Nanos: int32(r.Uint32())} // nobody sends it
	case 2:
		return &timestamppb.Timestamp{Seconds: 1 << 34, Nanos: 5}
	}
	return &timestamppb.Timestamp{Seconds: r.Int64N(1 << 32), Nanos: int32(r.IntN(2) * r.IntN(1e9))}
}

func (r random) duration() *durationpb.Duration {
	time := r.time()
	if time == nil {
		return nil
	}
	return &durationpb.Duration{Seconds: time.Seconds, Nanos: time.Nanos}
}

func (r random) session() *pb.Session {
	if r.IntN(4) == 0 {
		return nil
	}
	return &pb.Session{
		Id: r.text(), Data: r.text(), Version: r.Uint64() >> r.IntN(64), Principal: r.text(), CreateTime: r.time(), ExpireTime: r.time(),
		Duration: r.duration(), LastUseTime: r.time(), Label: r.text(),
	}
}

func (r random) texts() (texts []string) {
	for range r.IntN(3) {
		texts = append(texts, r.text())
	}
	return texts
}

func (r random) response() *pb.PipelineResponse {
	message := &pb.PipelineResponse{Sequence: r.Uint64() >> r.IntN(64)}
	state := pb.SessionState(r.IntN(10))
	switch r.IntN(8) {
	case 0:
		message.Result = &pb.PipelineResponse_Error{Error: &spb.Status{Code: r.Int32N(16), Message: r.text()}}
	case 1:
		message.Result = &pb.PipelineResponse_Write{Write: &pb.WriteResponse{Session: r.session(), SetCookie: r.texts(), Token: r.text()}}
	case 2, 3:
		message.Result = &pb.PipelineResponse_Touch{Touch: &pb.TouchResponse{State: state, Session: r.session(), SetCookie: r.texts()}}
	case 4:
	default:
		message.Result = &pb.PipelineResponse_Resolve{Resolve: &pb.ResolveResponse{State: state, Session: r.session(), SetCookie: r.texts(), Token: r.text()}}
	}
	return message
}

// sameAsGenerated compares what was decoded here with what the generated code decodes.
func sameAsGenerated(t *testing.T, body []byte) {
	t.Helper()
	message := new(pb.PipelineResponse)
	wrong := proto.Unmarshal(body, message)
	if byHand, ok := decodeFound(body); ok {
		if wrong != nil {
			t.Fatalf("expected the error %v of the generated code for %x", wrong, body)
		}
		if expected := foundIn(message); byHand.sequence != message.GetSequence() || !reflect.DeepEqual(byHand.found, expected) {
			t.Fatalf("expected %d %+v as the generated code decodes, found %d %+v", message.GetSequence(), expected, byHand.sequence, byHand.found)
		}
	}
	decoded, err := decodeResponse(body)
	if (err == nil) != (wrong == nil) {
		t.Fatalf("expected the error %v as of the generated code, found %v for %x", wrong, err, body)
	}
	if err == nil && decoded.found == nil && !proto.Equal(decoded.message, message) {
		t.Fatalf("expected %v, found %v", message, decoded.message)
	}
}

func TestLookupDecodesAsTheGeneratedCode(t *testing.T) {
	t.Parallel()
	r := random{rand.New(rand.NewPCG(1, 2))}
	usual := 0
	for range 5000 {
		body, err := proto.Marshal(r.response())
		if err != nil {
			t.Fatal(err)
		}
		sameAsGenerated(t, body)
		if _, ok := decodeFound(body); ok {
			usual++
		}
		// Cut, two in one, and with an octet of its own.
		cut := r.IntN(len(body) + 1)
		sameAsGenerated(t, body[:cut])
		sameAsGenerated(t, append(bytes.Clone(body), body...))
		if len(body) > 0 {
			body[r.IntN(len(body))] = byte(r.Uint32())
			sameAsGenerated(t, body)
		}
	}
	if usual < 1000 {
		t.Errorf("expected most answers to lookups to be decoded by hand, found %d", usual)
	}
}

func TestLookupEncodesAsTheGeneratedCode(t *testing.T) {
	t.Parallel()
	r := random{rand.New(rand.NewPCG(3, 4))}
	for range 5000 {
		l := lookup{kind: isResolve, engine: r.text(), credential: Credential{kind: []byte{0, 'c', 't'}[r.IntN(3)]}}
		if l.credential.kind != 0 {
			l.credential.value = r.text() + "\xff"[:r.IntN(2)]
		}
		if r.IntN(3) == 0 {
			l.kind, l.duration = isTouch, time.Duration(r.IntN(3))*time.Duration(r.Int64N(int64(maxDuration)))/2
		} else {
			l.peek, l.create = r.IntN(2) == 0, r.IntN(2) == 0
		}
		op := &operation{lookup: l, sequence: 1 + r.Uint64N(1<<60)>>r.IntN(60), left: time.Duration(r.Int64N(int64(time.Minute)))}
		expected := l.message()
		expected.Sequence, expected.Timeout = op.sequence, durationpb.New(op.left)
		data, err := codec{}.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		body := data.Materialize()
		data.Free()
		found := new(pb.PipelineRequest)
		if err := proto.Unmarshal(body, found); err != nil || !proto.Equal(found, expected) {
			t.Fatalf("expected %v, found %v %v", expected, found, err)
		}
		if size := l.size(op.sequence, op.left); size != len(body) || size != proto.Size(expected) || size > l.longest() {
			t.Fatalf("expected %d octets as of the generated code, at most %d; computed %d, found %d", proto.Size(expected), l.longest(), size, len(body))
		}
	}
}

func TestCodecTakesEveryOperation(t *testing.T) {
	t.Parallel()
	for _, set := range []string{`{"a":1}`, `{"a":"` + strings.Repeat("x", 5000) + `"}`} {
		op := &operation{sequence: 7, left: time.Second, request: &pb.PipelineRequest{Operation: &pb.PipelineRequest_Write{Write: &pb.WriteRequest{Set: set}}}}
		data, err := codec{}.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		found := new(pb.PipelineRequest)
		if err := proto.Unmarshal(data.Materialize(), found); err != nil || found.GetWrite().GetSet() != set || found.GetSequence() != 7 || found.GetTimeout().GetSeconds() != 1 {
			t.Errorf("expected the Write, found %v %v", found, err)
		}
		data.Free()
	}
	var answer received
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer("\x08")}, &answer); err == nil {
		t.Error("expected an error for half a message")
	}
}

func FuzzLookup(f *testing.F) {
	r := random{rand.New(rand.NewPCG(5, 6))}
	for range 100 {
		body, err := proto.Marshal(r.response())
		if err != nil {
			f.Fatal(err)
		}
		if len(body) < 500 { // small ones are mutated quickly
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) { sameAsGenerated(t, body) })
}
