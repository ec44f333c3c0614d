// Package tap writes the Test Anything Protocol (version 13).
//
// runtime-tools' validation programs import it as github.com/mndrix/tap-go, which Debian does not package. What they call of it is
// here, so that they can be built from Debian's packages alone; it judges nothing. The notes below a test are JSON, which is YAML too.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T counts the tests of one program.
type T struct {
	next *int
	todo bool
}

// New is a count that begins with 1.
func New() *T {
	first := 1
	return &T{next: &first}
}

// Header prints the version, and the plan where the number of tests is known before.
func (t *T) Header(count int) {
	fmt.Println("TAP version 13")
	if count > 0 {
		fmt.Printf("1..%d\n", count)
	}
}

// AutoPlan prints the plan of all tests so far.
func (t *T) AutoPlan() {
	fmt.Printf("1..%d\n", *t.next-1)
}

// Ok prints the result of one test.
func (t *T) Ok(passed bool, description string) {
	word := "not ok"
	if passed {
		word = "ok"
	}
	separator := "-"
	if t.todo {
		separator = "# TODO"
	}
	fmt.Printf("%s %d %s %s\n", word, *t.next, separator, strings.ReplaceAll(description, "\n", " "))
	*t.next++
}

// Pass is a test that passed.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail is a test that did not.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Skip counts this many tests as not run.
func (t *T) Skip(count int, description string) {
	for range count {
		fmt.Printf("ok %d # SKIP %s\n", *t.next, description)
		*t.next++
	}
}

// Todo shares the count; its failures are expected.
func (t *T) Todo() *T {
	return &T{next: t.next, todo: true}
}

// YAML prints what is to be said of the test before.
func (t *T) YAML(notes any) error {
	text, err := json.Marshal(notes)
	if err != nil {
		return err
	}
	fmt.Printf("  ---\n  %s\n  ...\n", text)
	return nil
}

// Diagnostic prints a remark.
func (t *T) Diagnostic(message string) {
	fmt.Println("# " + strings.ReplaceAll(message, "\n", "\n# "))
}

// Diagnosticf prints a remark with values.
func (t *T) Diagnosticf(format string, values ...any) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}
