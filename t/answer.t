# The answers of a memstat location: methods, formats, refusals, access control, filters.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use IO::Uncompress::Gunzip;

run_tests();

__DATA__

=== TEST 1: GET answers in JSON, never from a cache
--- config
location /memstat { memstat; }
--- request
GET /memstat
--- response_headers
Content-Type: application/json
Cache-Control: no-store
--- perl
my $now = sub { POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime) };
my $before = $now->();
my $reply = $t->memstat;
my ($then) = $reply->{time} =~ /^([-\dT:]+)(?:\.\d+)?(?:Z|[+]00:00)$/;
cmp_ok $then, 'ge', $before, 'the time of the answer, not before it was asked for';
cmp_ok $then, 'le', $now->(), 'nor after it came';
is $reply->{page_size}, page_size(), 'the page size';
my ($version) = Test::Memstat::Configuration::nginx_version() =~ m{nginx version: [^/]+/([\d.]+)};
is $reply->{nginx}, $version, 'the version of nginx';
is_deeply [ map { $_->{kind} } @{ $reply->{processes} } ], [ 'master', 'worker' ], 'all processes';
is_deeply $reply->{answered_by}, { pid => ($t->workers)[0], id => 0 }, 'who answered';

=== TEST 2: HEAD has the headers of GET and no body
--- config
location /memstat { memstat; }
--- perl
my $client = $t->connect;
my $get = $client->send(GET => '/memstat')->receive;
my $head = $client->send(HEAD => '/memstat')->receive('HEAD');
is $head->{status}, 200, 'status';
is_deeply $head->{order}, $get->{order}, 'the same headers';
is $head->{headers}{$_}, $get->{headers}{$_}, $_ for qw(content-type cache-control);
$head = $client->send(HEAD => '/memstat?format=text')->receive('HEAD');
like $head->{headers}{'content-type'}, qr{^text/plain}, 'the format counts too';
is $client->send(GET => '/memstat')->receive->{status}, 200, 'no stray body before the next answer';

=== TEST 3: other methods are not allowed
--- config
location /memstat { memstat; }
--- request
POST /memstat
PUT /memstat
DELETE /memstat
OPTIONS /memstat
PATCH /memstat
--- error_code
405
--- response_headers
Allow: GET, HEAD

=== TEST 4: format=json
--- config
location /memstat { memstat; }
--- request
GET /memstat?format=json
--- response_headers
Content-Type: application/json
--- response_body_like
^\{.*"processes":.*\}\s*$

=== TEST 5: format=text is a table
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $answer = $t->get('/memstat?format=text');
is $answer->{status}, 200, 'status';
like $answer->{headers}{'content-type'}, qr{^text/plain}, 'type';
is $answer->{headers}{'cache-control'}, 'no-store', 'not from a cache';
my $text = $answer->{body};
like $text, qr/^[^\n]*\b$_\b/m, "a line with process $_" for $t->master, $t->workers;
like $text, qr/\b(?:master|worker)\b/, 'kinds';
like $text, qr/\d(?:\.\d+)? ?[KMG]i?B?\b/, 'sizes in human units';
like $text, qr/\bglibc/, 'the allocator';
unlike $text, qr/[^\x20-\x7e\n]/, 'printable';
unlike $text, qr/ $/m, 'no trailing blanks';
my ($longest) = sort { $b <=> $a } map { length } split /\n/, $text;
cmp_ok $longest, '<=', 120, 'fits a terminal';

=== TEST 6: an unknown format is refused in one sentence
--- config
location /memstat { memstat; }
--- request
GET /memstat?format=xml
GET /memstat?format=
GET /memstat?format=JSON
--- error_code
400
--- response_headers
Cache-Control: no-store
--- response_body_like
^[^\n]*\bjson\b[^\n]*\btext\b[^\n]*\n?$

=== TEST 7: an unknown parameter is refused in one sentence
--- config
location /memstat { memstat; }
--- request
GET /memstat?fromat=json
GET /memstat?format=json&x=1
GET /memstat?x
GET /memstat?%3Cb%3E=1
GET /memstat?format=json&format=text
--- error_code
400
--- response_headers
Content-Type: text/plain; charset=utf-8
--- response_body_like
^[^\n]*\baccepted\b[^\n]*\bformat\b[^\n]*\n?$

=== TEST 8: an empty query is none
--- config
location /memstat { memstat; }
--- request
GET /memstat?
GET /memstat?format=json&

=== TEST 9: a request body is discarded, and the connection stays open
--- config
location /memstat { memstat; }
--- perl
my $client = $t->connect;
$client->send(GET => '/memstat', body => 'x' x 100_000);
is $client->receive->{status}, 200, 'a body with its length';
$client->send(GET => '/memstat', headers => ['Transfer-Encoding: chunked']);
$client->write("5\r\nhello\r\n0\r\n\r\n");
is $client->receive->{status}, 200, 'a body in chunks';
$client->send(HEAD => '/memstat', body => 'some');
is $client->receive('HEAD')->{status}, 200, 'a body with HEAD';
$client->send(POST => '/memstat', body => 'some');
is $client->receive->{status}, 405, 'a body with POST';
my $last = $client->send(GET => '/memstat')->receive;
is $last->{status}, 200, 'a request after them';
$t->decode($last->{body});

=== TEST 10: pipelined requests are answered in turn
--- config
location /memstat { memstat; }
--- perl
my $client = $t->connect;
my $get = "GET /memstat HTTP/1.1\r\nHost: localhost\r\n\r\n";
$client->write($get x 5);
for (1 .. 5) {
    my $answer = $client->receive;
    is $answer->{status}, 200, "answer $_";
    $t->decode($answer->{body});
}

=== TEST 11: HTTP/1.0
--- config
location /memstat { memstat; }
--- perl
my $client = $t->connect->write("GET /memstat HTTP/1.0\r\n\r\n");
my $answer = $client->receive;
is $answer->{status}, 200, 'status';
$t->decode($answer->{body});
ok $client->at_end, 'nothing behind the answer';

=== TEST 12: deny
--- config
location /memstat { memstat; deny all; }
--- request
GET /memstat
HEAD /memstat
GET /memstat?format=text
--- error_code
403
--- error_log
access forbidden by rule

=== TEST 13: allow
--- config
location /memstat { memstat; allow 127.0.0.1; deny all; }
--- request
GET /memstat

=== TEST 14: auth_basic
--- config
location /memstat {
    memstat;
    auth_basic "memstat";
    auth_basic_user_file html/users;
}
--- user_files
>>> users
user:{PLAIN}secret
--- perl
is $t->get('/memstat')->{status}, 401, 'without a password';
my $right = ['Authorization: Basic dXNlcjpzZWNyZXQ='];
is $t->get('/memstat', headers => $right)->{status}, 200, 'with it';
my $wrong = ['Authorization: Basic dXNlcjp3cm9uZw=='];
is $t->get('/memstat', headers => $wrong)->{status}, 401, 'with a wrong one';

=== TEST 15: satisfy
--- config
auth_basic "memstat";
auth_basic_user_file html/users;
location /any { satisfy any; allow 127.0.0.1; deny all; memstat; }
location /none { satisfy any; deny all; memstat; }
location /all { satisfy all; allow 127.0.0.1; deny all; memstat; }
--- user_files
>>> users
user:{PLAIN}secret
--- perl
my $right = ['Authorization: Basic dXNlcjpzZWNyZXQ='];
is $t->get('/any')->{status}, 200, 'any: the address is enough';
is $t->get('/none')->{status}, 401, 'any: neither';
is $t->get('/none', headers => $right)->{status}, 200, 'any: the password is enough';
is $t->get('/all')->{status}, 401, 'all: the address is not enough';
is $t->get('/all', headers => $right)->{status}, 200, 'all: both';

=== TEST 16: subrequests and internal redirects reach the location
--- config
location = /memstat { internal; memstat; }
location = /go { rewrite ^ /memstat last; }
location = /outside { return 200 "x"; }
location = /error { error_page 404 = /memstat; return 404; }
location = /lua {
    content_by_lua_block {
        local answer = ngx.location.capture("/memstat")
        ngx.status = answer.status
        ngx.header.content_type = "application/json"
        ngx.print(answer.body)
    }
}
--- request
GET /memstat
GET /go
GET /error
GET /lua
--- error_code
404 200 200 200

=== TEST 17: the answer passes through filters
--- config
gzip on;
gzip_types application/json;
gzip_min_length 1;
location /memstat { memstat; add_header X-Added yes; }
--- request
GET /memstat
--- more_headers
Accept-Encoding: gzip
--- response_headers
Content-Encoding: gzip
X-Added: yes
--- perl
my $answer = $t->get('/memstat', headers => ['Accept-Encoding: gzip']);
my $body = '';
IO::Uncompress::Gunzip::gunzip(\$answer->{body}, \$body);
is scalar @{ $t->decode($body)->{processes} }, 2, 'what was compressed is valid';
