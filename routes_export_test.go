package broker

// Route is one row of the tables of routes.go, for tests outside the package: as much of it as a request needs.
type Route struct {
	Method, Path string
	Body         bool // takes JSON
}

// APIRoutes are the rows of the REST API, with paths below /v1.
func APIRoutes() (rows []Route) {
	for _, rt := range apiRoutes {
		rows = append(rows, Route{rt.method, rt.path, rt.body == jsonBody})
	}
	return rows
}

// PlainRoutes are the other rows.
func PlainRoutes() (rows []Route) {
	for _, rt := range plainRoutes {
		rows = append(rows, Route{rt.method, rt.path, rt.body == jsonBody})
	}
	return rows
}
