package sessiond

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// What handlers keep in sessions is mostly plain: texts, numbers, lists of small structs. To read those, encoding/json
// needs more CPU than all the rest of the client for a request. It is done here in one pass; whatever is not plain, in
// the type or in the text, is left to encoding/json. Tests hold both to each other.

// plan is how the text of a type is read.
type plan struct {
	kind   reflect.Kind
	bits   int     // of a number
	elem   *plan   // of a slice
	fields []field // of a struct
}

type field struct {
	name  string
	index int
	plan  *plan
}

// maxFields is how many fields of a struct can be told apart.
const maxFields = 64

// plansOf has a *plan for each type that was read; nil: encoding/json reads it.
var plansOf sync.Map

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonNumber      = reflect.TypeFor[json.Number]()
)

func planOf(t reflect.Type) *plan {
	if known, ok := plansOf.Load(t); ok {
		return known.(*plan)
	}
	made := makePlan(t, nil)
	plansOf.Store(t, made)
	return made
}

// makePlan makes a plan; nil: the type, or a part of it, is not plain. inside: the types that it is a part of.
func makePlan(t reflect.Type, inside []reflect.Type) *plan {
	for _, outer := range inside {
		if outer == t {
			return nil
		}
	}
	inside = append(inside, t)
	if pointer := reflect.PointerTo(t); pointer.Implements(unmarshaler) || pointer.Implements(textUnmarshaler) || t == jsonNumber {
		return nil
	}
	switch kind := t.Kind(); kind {
	case reflect.String, reflect.Bool:
		return &plan{kind: kind}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &plan{kind: reflect.Int64, bits: t.Bits()}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &plan{kind: reflect.Uint64, bits: t.Bits()}
	case reflect.Float32, reflect.Float64:
		return &plan{kind: reflect.Float64, bits: t.Bits()}
	case reflect.Slice:
		elem := makePlan(t.Elem(), inside)
		if elem == nil || t.Elem().Kind() == reflect.Uint8 {
			return nil // octets are a text in base64
		}
		return &plan{kind: kind, elem: elem}
	case reflect.Struct:
		return makeStruct(t, inside)
	}
	return nil
}

func makeStruct(t reflect.Type, inside []reflect.Type) *plan {
	made := &plan{kind: reflect.Struct}
	names := map[string]bool{}
	for i := range t.NumField() {
		of := t.Field(i)
		if of.Anonymous {
			return nil
		}
		tag := of.Tag.Get("json")
		if !of.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = of.Name
		}
		// What other names mean, and two fields of one name, encoding/json knows.
		inner := makePlan(of.Type, inside)
		if inner == nil || names[name] || strings.Contains(options, "string") || !isPlainName(name) || len(made.fields) == maxFields {
			return nil
		}
		names[name] = true
		made.fields = append(made.fields, field{name: name, index: i, plan: inner})
	}
	return made
}

func isPlainName(name string) bool {
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_')
	}) < 0
}

// decodeFast reads a plain text into what a pointer points to, which must be a zero value. It reports whether it did;
// otherwise the value is as it was.
func decodeFast(text []byte, into any) bool {
	value := reflect.ValueOf(into)
	if value.Kind() != reflect.Pointer || value.IsNil() {
		return false
	}
	value = value.Elem()
	p := planOf(value.Type())
	if p == nil || !value.IsZero() {
		return false
	}
	if end := p.read(text, skipSpace(text, 0), value); end < 0 || skipSpace(text, end) != len(text) {
		value.SetZero()
		return false
	}
	return true
}

// read reads what begins at an index, and returns the index behind it; negative: it is not plain.
func (p *plan) read(text []byte, at int, into reflect.Value) int {
	if at >= len(text) {
		return -1
	}
	switch p.kind {
	case reflect.String:
		end := plainText(text, at)
		if end > 0 {
			into.SetString(string(text[at+1 : end-1]))
		}
		return end
	case reflect.Bool:
		return readBool(text, at, into)
	case reflect.Slice:
		return p.readSlice(text, at, into)
	case reflect.Struct:
		return p.readStruct(text, at, into)
	}
	return p.readNumber(text, at, into)
}

// plainText is the index behind a text without escapes; negative: there is none.
func plainText(text []byte, at int) int {
	if at >= len(text) || text[at] != '"' {
		return -1
	}
	ascii := true
	for i := at + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			if ascii || utf8.Valid(text[at+1:i]) {
				return i + 1
			}
			return -1
		case c == '\\' || c < ' ':
			return -1
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return -1
}

func readBool(text []byte, at int, into reflect.Value) int {
	for _, word := range [...]string{"true", "false"} {
		if end := at + len(word); end <= len(text) && string(text[at:end]) == word {
			into.SetBool(word == "true")
			return end
		}
	}
	return -1
}

func (p *plan) readNumber(text []byte, at int, into reflect.Value) int {
	end, whole := number(text, at)
	if end < 0 {
		return -1
	}
	literal := string(text[at:end])
	switch {
	case p.kind == reflect.Float64:
		value, err := strconv.ParseFloat(literal, p.bits)
		if err != nil {
			return -1
		}
		into.SetFloat(value)
	case !whole:
		return -1
	case p.kind == reflect.Int64:
		value, err := strconv.ParseInt(literal, 10, p.bits)
		if err != nil {
			return -1
		}
		into.SetInt(value)
	default:
		value, err := strconv.ParseUint(literal, 10, p.bits)
		if err != nil {
			return -1
		}
		into.SetUint(value)
	}
	return end
}

// number is the index behind a number, and whether it has neither a fraction nor an exponent.
func number(text []byte, at int) (end int, whole bool) {
	digits := func(at int) int {
		for at < len(text) && text[at] >= '0' && text[at] <= '9' {
			at++
		}
		return at
	}
	if at < len(text) && text[at] == '-' {
		at++
	}
	end = digits(at)
	if end == at || text[at] == '0' && end > at+1 {
		return -1, false
	}
	whole = true
	if end < len(text) && text[end] == '.' {
		whole, at = false, end+1
		if end = digits(at); end == at {
			return -1, false
		}
	}
	if end < len(text) && (text[end] == 'e' || text[end] == 'E') {
		whole, at = false, end+1
		if at < len(text) && (text[at] == '+' || text[at] == '-') {
			at++
		}
		if end = digits(at); end == at {
			return -1, false
		}
	}
	return end, whole
}

func (p *plan) readSlice(text []byte, at int, into reflect.Value) int {
	if text[at] != '[' {
		return -1
	}
	if at = skipSpace(text, at+1); at < len(text) && text[at] == ']' {
		into.Set(reflect.MakeSlice(into.Type(), 0, 0))
		return at + 1
	}
	for length := 0; ; length++ {
		if length == into.Cap() {
			into.Grow(max(4, length))
		}
		into.SetLen(length + 1)
		if at = p.elem.read(text, at, into.Index(length)); at < 0 {
			return -1
		}
		at = skipSpace(text, at)
		switch {
		case at < len(text) && text[at] == ',':
			at = skipSpace(text, at+1)
		case at < len(text) && text[at] == ']':
			return at + 1
		default:
			return -1
		}
	}
}

func (p *plan) readStruct(text []byte, at int, into reflect.Value) int {
	if text[at] != '{' {
		return -1
	}
	if at = skipSpace(text, at+1); at < len(text) && text[at] == '}' {
		return at + 1
	}
	var seen uint64
	for {
		end := plainText(text, at)
		if end < 0 {
			return -1
		}
		of := p.field(text[at+1 : end-1])
		// A name that is there in another case, or twice, or not at all.
		if of < 0 || seen&(1<<of) != 0 {
			return -1
		}
		seen |= 1 << of
		at = skipSpace(text, end)
		if at == len(text) || text[at] != ':' {
			return -1
		}
		at = p.fields[of].plan.read(text, skipSpace(text, at+1), into.Field(p.fields[of].index))
		if at < 0 {
			return -1
		}
		at = skipSpace(text, at)
		switch {
		case at < len(text) && text[at] == ',':
			at = skipSpace(text, at+1)
		case at < len(text) && text[at] == '}':
			return at + 1
		default:
			return -1
		}
	}
}

func (p *plan) field(name []byte) int {
	for i := range p.fields {
		if p.fields[i].name == string(name) {
			return i
		}
	}
	return -1
}
