package sessiond

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

type plainItem struct {
	Item  string `json:"item"`
	N     int    `json:"n,omitempty"`
	Price float32
	Tags  []string `json:"tags"`
	Small uint8
	Done  bool   `json:"done"`
	Never string `json:"-"`
}

type caseItem struct {
	A string `json:"a"`
	B string `json:"A"`
}

type (
	fails     struct{ Time time.Time }
	recursive struct{ Inner []recursive }
	embeds    struct{ plainItem }
	quoted    struct {
		N int `json:"n,string"`
	}
)

// twice has two fields of one name.
var twice = reflect.StructOf([]reflect.StructField{
	{Name: "A", Type: reflect.TypeFor[int](), Tag: `json:"x"`},
	{Name: "B", Type: reflect.TypeFor[int](), Tag: `json:"x"`},
})

// types are what a text is read into, both ways.
var types = []reflect.Type{
	reflect.TypeFor[plainItem](), reflect.TypeFor[[]plainItem](), reflect.TypeFor[[]string](), reflect.TypeFor[[][]int8](), reflect.TypeFor[string](),
	reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint64](), reflect.TypeFor[float64](),
	reflect.TypeFor[float32](), reflect.TypeFor[bool](), reflect.TypeFor[caseItem](), reflect.TypeFor[[]byte](), reflect.TypeFor[any](),
	reflect.TypeFor[map[string]int](), reflect.TypeFor[*plainItem](), reflect.TypeFor[fails](), reflect.TypeFor[recursive](),
	reflect.TypeFor[embeds](), reflect.TypeFor[quoted](), twice, reflect.TypeFor[json.Number](), reflect.TypeFor[time.Duration](),
	reflect.TypeFor[struct{}](), reflect.TypeFor[[2]int](),
}

// sameAsJSON compares what is read here with what encoding/json reads. It returns how many types were read here.
func sameAsJSON(t *testing.T, text []byte) int {
	t.Helper()
	read := 0
	for _, of := range types {
		found, expected := reflect.New(of), reflect.New(of)
		ok := decodeFast(text, found.Interface())
		err := json.Unmarshal(text, expected.Interface())
		switch {
		case ok && err != nil:
			t.Errorf("expected the error %v of encoding/json for %q as %s, found %+v", err, text, of, found.Elem())
		case ok && !reflect.DeepEqual(found.Interface(), expected.Interface()):
			t.Errorf("expected %+v as encoding/json reads %q as %s, found %+v", expected.Elem(), text, of, found.Elem())
		case !ok && !found.Elem().IsZero():
			t.Errorf("expected the value to be as it was after %q as %s, found %+v", text, of, found.Elem())
		}
		if ok {
			read++
		}
	}
	return read
}

var jsonTexts = []string{
	`"text"`, `"é☃"`, `"a\nb"`, "\"\xff\"", "\"a\x01\"", `""`, `"`, `"half`, `0`, `-0`, `7`, `-7`, `01`, `-`, `1.`, `1.5`, `-1.5e3`, `1e400`, `1E+2`, `1e`,
	`127`, `128`, `-128`, `-129`, `65535`, `65536`, `9223372036854775807`, `9223372036854775808`, `18446744073709551616`, `true`, `false`, `tru`, `truex`, `null`,
	` [ ] `, `[1 , 2]`, `[1,]`, `[,1]`, `[1 2]`, `[[1],[],[2,3]]`, `["a","b","c","d","e"]`, `[`, `[null]`, `[300]`,
	`{}`, ` { } `, `{"item":"tea","n":1}`, ` { "item" : "tea" , "n" : 1 , "Price" : 1.5 , "tags" : [ "a" ] , "Small" : 255 , "done" : true } `,
	`[{"item":"tea","n":1},{"item":"milk","n":2},{"item":"x"},{"n":3},{"tags":[]}]`, `{"ITEM":"tea"}`, `{"price":2}`, `{"item":"a","item":"b"}`, `{"other":1}`,
	`{"item":1}`, `{"item":null}`, `{"it\u0065m":"a"}`, `{"item":"a",}`, `{"item"}`, `{"item":}`, `{item:1}`, `{"skip":1}`, `{"Never":"x"}`, `{"-":"x"}`, `{"Small":256}`,
	`{"a":"1","A":"2"}`, `{"a":"1"}`, `{"A":"2"}`, `{"x":1}`, `{"n":"1"}`, `{"Time":"2026-01-01T00:00:00Z"}`, `{"Inner":[{"Inner":[]}]}`, `{"item":"a"}x`, `{"item":"a"} `, ``, ` `,
}

func TestDecodeFastReadsAsEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, text := range jsonTexts {
		sameAsJSON(t, []byte(text))
		for cut := range text {
			sameAsJSON(t, []byte(text[:cut]))
		}
	}
	for _, text := range []string{`[{"item":"tea","n":1},{"item":"milk","n":2}]`, `"é☃"`, `-1.5e3`, `["a"]`, `true`} {
		if sameAsJSON(t, []byte(text)) == 0 {
			t.Errorf("expected %s to be read without encoding/json", text)
		}
	}
	// Into a value that is not zero, encoding/json merges.
	list := []string{"a", "b"}
	if decodeFast([]byte(`["c"]`), &list) || list[1] != "b" {
		t.Errorf("expected a value to be left to encoding/json, found %q", list)
	}
	var none *int
	if decodeFast([]byte(`1`), none) || decodeFast([]byte(`1`), 1) || decodeFast([]byte(`1`), nil) {
		t.Error("expected nothing to be read into no pointer")
	}
}

func FuzzDecodeFast(f *testing.F) {
	for _, text := range jsonTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { sameAsJSON(t, text) })
}

func TestSameComparesAsEncodingJSON(t *testing.T) {
	t.Parallel()
	texts := []string{`1`, `2`, `1.0`, `-1`, `"a"`, `"b"`, `"\u0061"`, `"a\""`, `true`, `null`, `[1]`, `[1 ]`, `{"a":1}`, `{ "a":1}`, `1 `, `"a" `, ``, `"`}
	for _, a := range texts {
		for _, b := range texts {
			if found, expected := same([]byte(a), []byte(b)), reflect.DeepEqual(exactly([]byte(a)), exactly([]byte(b))); found != expected {
				t.Errorf("expected same(%q, %q) to be %t", a, b, expected)
			}
		}
	}
}
