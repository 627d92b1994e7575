# The format of a reply, its narrowing by parameters, and its headers.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus qw(promtool series);

use JSON::PP;

# Returns the headers of an answer that these tests compare.
sub headers {
    my ($answer) = @_;
    return join ' | ', map { $answer->{headers}{$_} // '-' } qw(content-type vary);
}

use constant TYPE => {
    json        => 'application/json',
    html        => 'text/html; charset=utf-8',
    text        => 'text/plain; charset=utf-8',
    prometheus  => 'text/plain; version=0.0.4; charset=utf-8',
    openmetrics => 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

run_tests();

__DATA__

=== TEST 1: Accept decides, and format= overrides it
--- config
location /memstat { memstat; }
--- perl
my $browser = 'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
my $scrape  = 'Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1';
my $classic = 'Accept: text/plain;version=0.0.4;q=1,*/*;q=0.1';
for ([ 'nothing', [], 'json' ], [ '*/*', ['Accept: */*'], 'json' ], [ 'a browser', [$browser], 'html' ],
    [ 'a scrape', [$scrape], 'openmetrics' ], [ 'a classic scrape', [$classic], 'prometheus' ],
    [ 'text/plain', ['Accept: text/plain'], 'text' ],
    [ 'two fields', [ 'Accept: image/png', 'accept: text/html' ], 'html' ]) {
    my ($what, $lines, $format) = @$_;
    my $answer = $t->get('/memstat', headers => $lines);
    is headers($answer), TYPE->{$format} . ' | Accept', "$what: $format";
    is $answer->{headers}{'cache-control'}, 'no-store', "$what: not from a cache";
    is $answer->{headers}{'x-content-type-options'}, 'nosniff', "$what: of this type";
    for my $asked (qw(json html text)) {
        is headers($t->get("/memstat?format=$asked", headers => $lines)), TYPE->{$asked} . ' | -',
            "$what, format=$asked";
    }
    my $metrics = $format eq 'openmetrics' ? 'openmetrics' : 'prometheus';
    is headers($t->get('/memstat?format=prometheus', headers => $lines)), TYPE->{$metrics} . ' | Accept',
        "$what, format=prometheus";
}
my $head = $t->request(HEAD => '/memstat', headers => [$browser]);
is headers($head), TYPE->{html} . ' | Accept', 'HEAD too';

=== TEST 2: curl without options
--- config
location /memstat { memstat; }
--- perl
my $said = `curl -q -sS --noproxy '*' -w '\\n%{content_type}' @{[ $t->base ]}/memstat`;
my ($body, $type) = $said =~ /\A(.*)\n\n(.*)\z/s;
is $type, 'application/json', 'JSON';
$t->decode($body);

=== TEST 3: memstat_format sets the format for requests that leave it open
--- http_config
memstat_format text;
--- config
location /inherited { memstat; }
location /json { memstat; memstat_format json; }
location /html { memstat_format html; memstat; }
location /prometheus { memstat; memstat_format prometheus; }
--- perl
my %format = (inherited => 'text', json => 'json', html => 'html', prometheus => 'prometheus');
for my $path (sort keys %format) {
    for my $lines ([], ['Accept: */*'], ['Accept: image/png']) {
        is headers($t->get("/$path", headers => $lines)), TYPE->{ $format{$path} } . ' | Accept', "/$path @$lines";
    }
    is headers($t->get("/$path", headers => ['Accept: application/json'])), TYPE->{json} . ' | Accept',
        "/$path: Accept is more";
    is headers($t->get("/$path?format=text")), TYPE->{text} . ' | -', "/$path: format= is more";
}

=== TEST 4: memstat_format: a format that does not exist
--- config
location /memstat { memstat; memstat_format xml; }
--- must_die
--- error_log
invalid value "xml" in "memstat_format", expected "json", "html", "text" or "prometheus" in .*nginx.conf:\d+

=== TEST 5: memstat_format twice
--- config
location /memstat { memstat; memstat_format json; memstat_format text; }
--- must_die
--- error_log
"memstat_format" directive is duplicate

=== TEST 6: the page's policy allows only its own style and script
--- config
location /memstat { memstat; }
--- perl
my $page = $t->get('/memstat?format=html');
my %policy = map { /^(\S+) (.*)$/ } split /; /, $page->{headers}{'content-security-policy'};
is $policy{'default-src'}, q('none'), 'nothing by default';
is $policy{'connect-src'}, q('self'), 'requests to itself';
is $policy{$_}, q('none'), $_ for qw(base-uri form-action frame-ancestors);
require Digest::SHA;
for my $tag (qw(style script)) {
    my @blocks = $page->{body} =~ m{<$tag>(.*?)</$tag>}sg;
    is scalar @blocks, 1, "one $tag";
    is $policy{"$tag-src"}, q('sha256-) . Digest::SHA::sha256_base64($blocks[0]) . q(='), "its hash";
}
unlike $page->{body}, qr{(?:src|href)="(?![#?]|data:)}, 'no address but its own';
is $t->get('/memstat?format=json')->{headers}{'content-security-policy'}, undef, 'of the page only';

=== TEST 7: fields= narrows JSON
--- config
location /memstat { memstat; }
--- perl
my $get = sub { return JSON::PP->new->utf8->decode($t->get("/memstat?$_[0]")->{body}) };
is_deeply [ sort keys %{ $get->('fields=nginx,totals') } ], [qw(nginx totals)], 'at the top';
my $below = $get->('fields=totals.swap,processes.pid,processes.system');
is_deeply [ sort keys %$below ], [qw(processes totals)], 'only these';
is_deeply [ keys %{ $below->{totals} } ], ['swap'], 'below the top';
is_deeply [ sort keys %$_ ], [qw(pid system)], 'of each process' for @{ $below->{processes} };
is_deeply [ map { $_->{pid} } @{ $below->{processes} } ], [ $t->master, $t->workers ], 'all processes';
is_deeply [ sort keys %{ $get->('fields=shared_zones.size')->{shared_zones} } ],
    [ sort keys %{ $t->memstat->{shared_zones} } ], 'of each zone';

=== TEST 8: pid= narrows to one process
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my @workers = $t->workers;
for my $pid ($t->master, @workers) {
    my $reply = $t->memstat("/memstat?pid=$pid");
    is_deeply [ map { $_->{pid} } @{ $reply->{processes} } ], [$pid], 'JSON';
    is $reply->{totals}{processes}, 3, 'the totals are of all';
    my $text = $t->get("/memstat?pid=$pid&format=text")->{body};
    my ($other) = grep { $_ != $pid } @workers;
    like $text, qr/^[a-z]+(?: \d)? +$pid /m, 'text';
    unlike $text, qr/^[a-z]+(?: \d)? +$other /m, 'text: no other';
    like $t->get("/memstat?pid=$pid&format=html")->{body}, qr/<details id="p$pid"/, 'the page';
}
my $none = $t->get('/memstat?pid=1');
is $none->{status}, 404, 'another process';
is $none->{body}, sprintf(qq{unknown pid "1": known are %d, %d and %d\n}, $t->master, sort { $a <=> $b } @workers),
    'and those there are';

=== TEST 9: parameters that cannot be combined are refused in a sentence
--- config
location /memstat { memstat; }
--- request
GET /memstat?fields=x
GET /memstat?fields=
GET /memstat?fields=totals.x
GET /memstat?pid=x
GET /memstat?pid=0
GET /memstat?fields=nginx&format=html
GET /memstat?fields=nginx&format=prometheus
GET /memstat?pid=1&format=prometheus
--- error_code
400
--- response_headers
Content-Type: text/plain; charset=utf-8
Cache-Control: no-store
--- response_body_like
^[^\n]*\baccepted (?:is|are)\b[^\n]*\n?$

=== TEST 10: text for a small server fits a screen of 100 columns and 50 lines
--- main_config
worker_processes 4;
--- http_config
limit_req_zone $binary_remote_addr zone=one:1m rate=1r/s;
proxy_cache_path html/cache keys_zone=two:1m;
--- config
location /memstat { memstat; }
--- perl
my $text = $t->get('/memstat?format=text')->{body};
my @lines = split /\n/, $text;
cmp_ok scalar @lines, '<=', 50, 'lines';
cmp_ok length, '<=', 100, 'columns' for @lines;
my $sizes = sub { return map { /^(?:worker \d|master|cache \w+) +\d+ .*? (\d+(?:\.\d+)?) ([KMG])iB/
    ? $1 * { K => 1, M => 1024, G => 1048576 }->{$2} : () } @lines };
my @sizes = $sizes->();
cmp_ok scalar @sizes, '>=', 5, 'processes';
is_deeply \@sizes, [ sort { $b <=> $a } @sizes ], 'the largest first';
like $text, qr/^one +/m, 'zones';

=== TEST 11: metrics are well-formed, with the figures of the same moment
--- main_config
worker_processes 2;
--- http_config
limit_req_zone $binary_remote_addr "zone=a\"b\\c<i>:1m" rate=1r/s;
--- config
location /memstat { memstat; }
--- perl
my $scrape = $t->get('/memstat?format=prometheus')->{body};
my ($content, $said) = promtool($scrape, qw(check metrics));
ok $content, 'promtool check metrics';
is $said, '', 'it says nothing';
my $series = series($scrape);
unlike $_, qr/\bpid=/, 'no pid' for keys %$series;
my $key = 'nginx_memstat_zone_size_bytes{zone="a\"b\\\\\\\\c<i>"}';
ok exists $series->{$key} || exists $series->{'nginx_memstat_zone_size_bytes{zone="a\"b\\\\c<i>"}'}, 'a zone of an odd name'
    or diag join "\n", grep { /zone_size/ } keys %$series;
my $open = $t->get('/memstat?format=prometheus', headers => ['Accept: application/openmetrics-text']);
is $open->{headers}{'content-type'}, TYPE->{openmetrics}, 'OpenMetrics';
like $open->{body}, qr/\n# EOF\n\z/, 'ends as it must';
# Each request's connection has a pool, which the other reply may lack.
my $names = sub { return [ sort grep { !/creator=|oldest|pools_by_/ } keys %{ $_[0] } ] };
is_deeply $names->(series($open->{body})), $names->($series), 'the same series';

=== TEST 12: gzip
--- config
gzip on;
gzip_types text/plain application/json;
gzip_min_length 1;
location /memstat { memstat; }
--- request
GET /memstat
GET /memstat?format=html
GET /memstat?format=text
GET /memstat?format=prometheus
--- more_headers
Accept-Encoding: gzip
--- response_headers
Content-Encoding: gzip

=== TEST 13: text has the peak of each process, and server and request of a pool
--- config
location /memstat { memstat; memstat_uri on; }
--- perl
my $path = '/memstat?format=text&fields=processes.system,processes.pools';
my $text = $t->wait_for('a snapshot of a request', sub {
    my $text = $t->get($path)->{body};
    return $text =~ /ngx_http_(?:create|alloc)_request/ && $text;
});
my ($head, @rows) = split /\n/, ($text =~ /^Processes .*\n((?:.+\n)+)/m)[0];
like $head, qr/ virtual +peak$/, 'the last column';
for my $pid ($t->master, $t->workers) {
    my ($row) = grep { / $pid / } @rows;
    my ($size, $unit) = $row =~ / ([\d.]+) ([KMG])iB$/ or die "no size: $row\n";
    my %status = proc_status($pid);
    near $size * { K => 1, M => 1024, G => 1048576 }->{$unit} * 1024, $status{VmHWM}, 0.02 * $status{VmHWM}, "the peak of $pid";
}
# Columns that do not fit on the line are in a separate block.
my ($pools) = $text =~ /^Oldest pools\n(.*)/ms;
like $pools, qr/ server\b/, 'a column of servers';
like $pools, qr/ localhost\b/, 'the server';
like $pools, qr{ GET /memstat\?}, 'and the request line';
