package audit_test

import (
	"fmt"
	"log"
	"os"

	"github.com/claudemesh/broker/audit"
)

// An auditor knows the key of the log, which was printed with the first export, and looks at a new one.
func ExampleVerify() {
	file, err := os.Open("testdata/deleted.jsonl")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	report, err := audit.Verify(file, audit.Options{Key: "6e7a1cdd29b0b78fd13af4c5598feff4ef2a97166e3ca6f2e4fbfccd80505bf1"})
	if err != nil {
		log.Fatal(err)
	}
	if !report.Valid {
		fmt.Printf("entry %d, %s: %s\n", report.Fault.ID, report.Fault.Kind, report.Fault.Text)
	}
	// Output: entry 8, deleted: 1 entry was deleted between entry 6 and this one
}
