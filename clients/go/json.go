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
	if err := json.Unmarshal(text, value); err != nil {
		// The text of err can have data in it.
		wrong := invalidData(fmt.Sprintf("the key %q: its value cannot be read into a %T", key, value), nil)
		wrong.Field = ""
		return true, wrong
	}
	return true, nil
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

func parseData(text []byte) (Data, error) {
	data := Data{}
	if len(text) == 0 {
		return data, nil
	}
	if err := json.Unmarshal(text, &data); err != nil {
		return nil, invalidData("the stored data are no JSON object", nil)
	}
	return data, nil
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
	return reflect.DeepEqual(exactly(a), exactly(b))
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
