package broker

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A route that does not say what it takes to be heard is no program: each row of the tables, less one of its answers, is an error of the compiler.
func TestRouteWithoutItsAccessDoesNotBuild(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("routes.go")
	require.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), "routes.go", source, 0)
	require.NoError(t, err)
	type cut struct{ from, to int }
	var cuts []cut
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name, ok := call.Fun.(*ast.Ident)
		if !ok || name.Name != "api" && name.Name != "plain" {
			return true
		}
		last := len(call.Args) - 1                    // the handler
		answer := call.Args[2+len(cuts)%(last-2)]     // method and path are none; every answer is left out somewhere
		next := call.Args[3+len(cuts)%(last-2)].Pos() // with the comma and the space behind it
		cuts = append(cuts, cut{int(answer.Pos()) - 1, int(next) - 1})
		return true
	})
	require.Len(t, cuts, len(apiRoutes)+len(plainRoutes), "every row is a call of api or plain")
	broken := string(source)
	for i := len(cuts) - 1; i >= 0; i-- {
		broken = broken[:cuts[i].from] + broken[cuts[i].to:]
	}
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	spoiled, overlay := filepath.Join(t.TempDir(), "routes.go"), filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(spoiled, []byte(broken), 0o600))
	raw, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(dir, "routes.go"): spoiled}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, raw, 0o600))
	out, err := exec.Command("go", "build", "-overlay", overlay, "-gcflags=-e", ".").CombinedOutput()
	require.Error(t, err, "it builds")
	require.Equal(t, len(apiRoutes), strings.Count(string(out), "not enough arguments in call to api"), "%s", out)
	require.Equal(t, len(plainRoutes), strings.Count(string(out), "not enough arguments in call to plain"), "%s", out)
}

// What compiles and makes no sense does not start.
func TestRouteThatMakesNoSenseFailsAtStartUp(t *testing.T) {
	t.Parallel()
	good := api("PATCH", "/topics/{name}/x", needRead, topicPath, issuerNeeded, jsonBody, keyPace, with[getKey])
	require.NotPanics(t, func() { checkAPI([]apiRoute{good}) })
	for name, spoil := range map[string]func(*apiRoute){
		"nothing said":       func(rt *apiRoute) { *rt = apiRoute{method: "GET", path: "/x", open: with[getKey]} },
		"no capability":      func(rt *apiRoute) { rt.need = "" },
		"unknown capability": func(rt *apiRoute) { rt.need = "write" },
		"no topic":           func(rt *apiRoute) { rt.topic = "" },
		"topic not in path":  func(rt *apiRoute) { rt.path = "/x" },
		"topic not scoped":   func(rt *apiRoute) { rt.topic = topicNone },
		"topic in no body":   func(rt *apiRoute) { rt.path, rt.topic, rt.body = "/x", topicBody, noBody },
		"no issuer":          func(rt *apiRoute) { rt.issuer = "" },
		"no body":            func(rt *apiRoute) { rt.body = "" },
		"GET with a body":    func(rt *apiRoute) { rt.method = "GET" },
		"POST without one":   func(rt *apiRoute) { rt.method, rt.body = "POST", noBody },
		"unknown method":     func(rt *apiRoute) { rt.method = "PWN" },
		"no pace":            func(rt *apiRoute) { rt.pace = "" },
		"no handler":         func(rt *apiRoute) { rt.open = nil },
	} {
		bad := good
		spoil(&bad)
		require.Panics(t, func() { checkAPI([]apiRoute{bad}) }, name)
	}
	join := plain("POST", "/x", callerInvited, ownPage, jsonBody, (*Broker).serveJoin)
	require.NotPanics(t, func() { checkPlain([]plainRoute{join}) })
	for name, spoil := range map[string]func(*plainRoute){
		"nothing said":          func(rt *plainRoute) { *rt = plainRoute{method: "GET", path: "/x", serve: (*Broker).serveHealth} },
		"nobody":                func(rt *plainRoute) { rt.caller = "" },
		"unknown caller":        func(rt *plainRoute) { rt.caller = "friend" },
		"anyone posts":          func(rt *plainRoute) { rt.caller, rt.pages = callerAnyone, anyPage },
		"any page posts":        func(rt *plainRoute) { rt.pages = anyPage },
		"no page may read news": func(rt *plainRoute) { rt.method, rt.caller, rt.body = "GET", callerAnyone, noBody },
		"no pages":              func(rt *plainRoute) { rt.pages = "" },
		"no body":               func(rt *plainRoute) { rt.body = "" },
		"POST without one":      func(rt *plainRoute) { rt.body = noBody },
		"no handler":            func(rt *plainRoute) { rt.serve = nil },
	} {
		bad := join
		spoil(&bad)
		require.Panics(t, func() { checkPlain([]plainRoute{bad}) }, name)
	}
}

// Nothing is served but by the tables.
func TestOnlyTheTablesAreServed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	found := map[string]int{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		if n := len(regexp.MustCompile(`\.(HandleFunc|Handle)\(|NewServeMux`).FindAllIndex(source, -1)); n > 0 {
			found[name] = n
		}
	}
	// One mux; the rows of both tables, the preflights of one, the unknown paths below either prefix, and everything else.
	require.Equal(t, map[string]int{"routes.go": 7}, found)
}

// docs/rest.md has a row for every route, which says what the tables say.
func TestRouteTablesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/rest.md")
	require.NoError(t, err)
	built, builtPlain := map[string]string{}, map[string]string{}
	for _, rt := range apiRoutes {
		built[rt.method+" "+rt.path] = fmt.Sprint([]any{rt.need, rt.topic, rt.issuer, rt.body})
	}
	for _, rt := range plainRoutes {
		builtPlain[rt.method+" "+rt.path] = fmt.Sprint([]any{rt.caller, rt.pages, rt.body})
	}
	documented, documentedPlain := map[string]string{}, map[string]string{}
	api := regexp.MustCompile("(?m)^\\| ([A-Z]+) `(/[^`]*)` \\| ([a-z_]+) \\| ([a-z]+) \\| (yes|no) \\| (json|none) \\|")
	for _, m := range api.FindAllStringSubmatch(string(page), -1) {
		documented[m[1]+" "+m[2]] = fmt.Sprint(m[3:])
	}
	plain := regexp.MustCompile("(?m)^\\| ([A-Z]+) `(/[^`]*)` \\| ([a-z]+) \\| ([a-z]+) \\| (json|none) \\|")
	for _, m := range plain.FindAllStringSubmatch(string(page), -1) {
		documentedPlain[m[1]+" "+m[2]] = fmt.Sprint(m[3:])
	}
	require.Equal(t, built, documented)
	require.Equal(t, builtPlain, documentedPlain)
}
