package sessiond

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Data are session data: top-level keys, each with the JSON text of its value.
type Data map[string]json.RawMessage

// Get decodes the value of a key into value, as json.Unmarshal does. It reports whether the key is there. It returns an
// error with reason INVALID_DATA if the value is none of that type.
func (d Data) Get(key string, value any) (bool, error) {
	text, ok := d[key]
	if !ok {
		return false, nil
	}
	return true, decode(key, text, value)
}

// decode reads the text of a key's value.
func decode(key string, text json.RawMessage, value any) error {
	if decodePlain(text, value) || decodeFast(text, value) {
		return nil
	}
	if err := json.Unmarshal(text, value); err != nil {
		// The text of err can have data in it.
		wrong := invalidData(fmt.Sprintf("the key %q: its value cannot be read into a %T", key, value), nil)
		wrong.Field = ""
		return wrong
	}
	return nil
}

// decodePlain reads what is read most often, without the cost of encoding/json: an ASCII string without escapes, a small
// integer. It reports whether it did.
func decodePlain(text json.RawMessage, value any) bool {
	switch value := value.(type) {
	case *string:
		if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
			return false
		}
		inner := text[1 : len(text)-1]
		for _, c := range inner {
			if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
				return false
			}
		}
		*value = string(inner)
		return true
	case *int:
		if len(text) == 0 || len(text) > 9 || len(text) > 1 && text[0] == '0' {
			return false
		}
		number := 0
		for _, c := range text {
			if c < '0' || c > '9' {
				return false
			}
			number = 10*number + int(c-'0')
		}
		*value = number
		return true
	}
	return false
}

// Set stores a value under a key. It returns an error if the value is not what JSON can hold.
func (d Data) Set(key string, value any) error {
	text, err := valueText(key, value)
	if err != nil {
		return err
	}
	d[key] = text
	return nil
}

// parseData splits the text of an object into the texts of its values. What is in a value is looked at by whoever reads
// it: the daemon stores nothing that is not JSON.
func parseData(text []byte) (Data, error) {
	data := Data{}
	if len(text) == 0 {
		return data, nil
	}
	at := skipSpace(text, 0)
	if at == len(text) || text[at] != '{' {
		return nil, noObject()
	}
	for at = skipSpace(text, at+1); ; at = skipSpace(text, at+1) {
		if at < len(text) && text[at] == '}' && len(data) == 0 {
			break
		}
		keyEnd := skipString(text, at)
		colon := skipSpace(text, keyEnd)
		value := skipSpace(text, colon+1)
		end := skipValue(text, value)
		if keyEnd == at || colon == len(text) || text[colon] != ':' || end == value {
			return nil, noObject()
		}
		key, ok := keyOf(text[at:keyEnd])
		if !ok {
			return nil, noObject()
		}
		// To append to one must not change the next.
		data[key] = text[value:end:end]
		at = skipSpace(text, end)
		if at < len(text) && text[at] == ',' {
			continue
		}
		if at == len(text) || text[at] != '}' {
			return nil, noObject()
		}
		break
	}
	if skipSpace(text, at+1) != len(text) {
		return nil, noObject()
	}
	return data, nil
}

func noObject() *Error { return invalidData("the stored data are no JSON object", nil) }

func keyOf(text []byte) (key string, ok bool) {
	if decodePlain(text, &key) {
		return key, true
	}
	return key, json.Unmarshal(text, &key) == nil
}

// skipSpace, skipString and skipValue return the index behind what begins at an index: the index itself if nothing does,
// or if it has no end.
func skipSpace(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r') {
		at++
	}
	return min(at, len(text))
}

func skipString(text []byte, at int) int {
	if at >= len(text) || text[at] != '"' {
		return at
	}
	// Long texts have no escapes, as a rule.
	if end := bytes.IndexByte(text[at+1:], '"'); end >= 0 && bytes.IndexByte(text[at+1:at+1+end], '\\') < 0 {
		return at + end + 2
	}
	for i := at + 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return at
}

func skipValue(text []byte, at int) int {
	if at >= len(text) {
		return at
	}
	switch text[at] {
	case '"':
		return skipString(text, at)
	case '{', '[':
		depth := 0
		for i := at; i < len(text); i++ {
			switch text[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			case '"':
				end := skipString(text, i)
				if end == i {
					return at
				}
				i = end - 1
			}
		}
		return at
	}
	end := at
	for end < len(text) && bytes.IndexByte([]byte(" \t\r\n,}]"), text[end]) < 0 {
		end++
	}
	return end
}

// valueText is the JSON text of a value, on one line and without escapes for HTML, so that a RawMessage stays as it is.
func valueText(key string, value any) (json.RawMessage, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, notJSON(key, value, err)
	}
	text := bytes.TrimRight(out.Bytes(), "\n")
	// encoding/json puts this in the place of octets that are not UTF-8: they would be lost without a word.
	if escaped(text, `\ufffd`) {
		return nil, invalidData(fmt.Sprintf("the key %q: a text is not UTF-8", key), nil)
	}
	return text, nil
}

// notJSON says which key, and which type. The text of the error of encoding/json can have data in it.
func notJSON(key string, value any, err error) *Error {
	what := fmt.Sprintf("a value of type %T is not what JSON can hold", value)
	switch err := err.(type) {
	case *json.UnsupportedTypeError:
		what = fmt.Sprintf("the type %s is not what JSON can hold", err.Type)
	case *json.UnsupportedValueError:
		what = "a number that is not finite, or a cycle"
		if err.Value.IsValid() && err.Value.Kind() == reflect.Float64 {
			what = "a number that is not finite"
		}
	}
	if key == "" {
		return invalidData(what, nil)
	}
	return invalidData(fmt.Sprintf("the key %q: %s", key, what), nil)
}

// escaped reports whether a JSON text has this escape.
func escaped(text []byte, escape string) bool {
	for at := 0; ; {
		found := bytes.Index(text[at:], []byte(escape))
		if found < 0 {
			return false
		}
		found += at
		slashes := 0
		for i := found - 1; i >= 0 && text[i] == '\\'; i-- {
			slashes++
		}
		if slashes%2 == 0 {
			return true
		}
		at = found + 1
	}
}

// objectText is the JSON text of WriteOptions.Set.
func objectText(value any) (string, error) {
	switch value := value.(type) {
	case nil:
		return "", nil
	case json.RawMessage:
		if len(value) > 0 && !isObject(value) {
			return "", invalidData("set: expected a JSON object", nil)
		}
		return string(value), nil
	case Data:
		if len(value) == 0 {
			return "", nil
		}
	}
	text, err := valueText("", value)
	if err != nil {
		return "", err
	}
	if !isObject(text) {
		return "", invalidData("set: expected a JSON object", nil)
	}
	return string(text), nil
}

func isObject(text []byte) bool {
	trimmed := bytes.TrimLeft(text, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(text) && utf8.Valid(text)
}

// same reports whether two JSON texts have the same value. An object's order and white space do not count; a number's
// spelling does.
func same(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if isAtom(a) && isAtom(b) {
		return false
	}
	return reflect.DeepEqual(exactly(a), exactly(b))
}

// isAtom reports whether a value can be written in one way only, as far as that counts.
func isAtom(text json.RawMessage) bool {
	if len(text) == 0 {
		return false
	}
	switch c := text[0]; {
	case c == '"':
		return bytes.IndexByte(text, '\\') < 0 && text[len(text)-1] == '"'
	case c == '-', c == 't', c == 'f', c == 'n', c >= '0' && c <= '9':
		return bytes.IndexByte(text, ' ') < 0 && text[len(text)-1] > ' '
	}
	return false
}

func exactly(text json.RawMessage) any {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return string(text)
	}
	return value
}
