# The directives: what they accept, and the errors for everything else.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Cases: the context of the directives (main, http, server or location); the directives, the last of which
# is wrong; the error that nginx prints before the file and the line of the last one. A case without an
# error is accepted.
my $HOOKS = qr/expected "on", "off" or any of "pool", "slab", "lua", "thread", "master" in "memstat_hooks"/;
my $SIZE  = qr/in "memstat_zone", expected "size=" and a size such as "size=1m"/;
my @CASES = (
    [ location => 'memstat;' ],
    [ location => 'memstat on;', qr/invalid number of arguments in "memstat" directive/ ],
    [ location => "memstat;\nmemstat;", qr/"memstat" directive is duplicate/ ],
    [ server => 'memstat;', qr/"memstat" directive is not allowed here/ ],
    [ http => 'memstat;',   qr/"memstat" directive is not allowed here/ ],
    [ main => 'memstat;',   qr/"memstat" directive is not allowed here/ ],
    [ server => 'location /a { memstat; } location /b { memstat; }' ],
    [ server => 'location /a { memstat; location /a/b { memstat; } }' ],

    [ http => 'memstat_zone size=1m;' ],
    [ http => 'memstat_zone size=2048k;' ],
    [ http => 'memstat_zone size=4194304;' ],
    [ http => 'memstat_zone;', qr/invalid number of arguments in "memstat_zone" directive/ ],
    [ http => 'memstat_zone size=1m size=2m;',
        qr/invalid number of arguments in "memstat_zone" directive/ ],
    [ http => 'memstat_zone 1m;', qr/invalid value "1m" $SIZE/ ],
    [ http => 'memstat_zone zone=1m;', qr/invalid value "zone=1m" $SIZE/ ],
    [ http => 'memstat_zone size=;', qr/invalid value "size=" $SIZE/ ],
    [ http => 'memstat_zone size=big;', qr/invalid value "size=big" $SIZE/ ],
    [ http => 'memstat_zone size=-1;', qr/invalid value "size=-1" $SIZE/ ],
    [ http => 'memstat_zone size=1x;', qr/invalid value "size=1x" $SIZE/ ],
    [ http => 'memstat_zone size=99999999999999999999m;', qr/invalid value "size=9+m" $SIZE/ ],
    [ http => 'memstat_zone size=0;', qr/"memstat_zone" is too small, .* at least size=\d+k/ ],
    [ http => 'memstat_zone size=1k;', qr/"memstat_zone" is too small, .* at least size=\d+k/ ],
    [ http => "memstat_zone size=1m;\nmemstat_zone size=1m;", qr/"memstat_zone" directive is duplicate/ ],
    [ server => 'memstat_zone size=1m;',   qr/"memstat_zone" directive is not allowed here/ ],
    [ location => 'memstat_zone size=1m;', qr/"memstat_zone" directive is not allowed here/ ],
    [ main => 'memstat_zone size=1m;',     qr/"memstat_zone" directive is not allowed here/ ],

    [ location => 'memstat_timeout 200ms;' ],
    [ server => 'memstat_timeout 1s;' ],
    [ http => 'memstat_timeout 50;' ],
    [ location => 'memstat_timeout;', qr/invalid number of arguments in "memstat_timeout" directive/ ],
    [ location => 'memstat_timeout 1s 2s;',
        qr/invalid number of arguments in "memstat_timeout" directive/ ],
    [ location => 'memstat_timeout soon;',
        qr/invalid value "soon" in "memstat_timeout", expected a time such as "200ms"/ ],
    [ location => 'memstat_timeout -1;',
        qr/invalid value "-1" in "memstat_timeout", expected a time such as "200ms"/ ],
    [ location => "memstat_timeout 1s;\nmemstat_timeout 1s;",
        qr/"memstat_timeout" directive is duplicate/ ],
    [ main => 'memstat_timeout 1s;', qr/"memstat_timeout" directive is not allowed here/ ],

    [ location => 'memstat_uri on;' ],
    [ server => 'memstat_uri off;' ],
    [ http => 'memstat_uri on;' ],
    [ location => 'memstat_uri;', qr/invalid number of arguments in "memstat_uri" directive/ ],
    [ location => 'memstat_uri yes;', qr/invalid value "yes" in "memstat_uri", expected "on" or "off"/ ],
    [ location => "memstat_uri on;\nmemstat_uri on;", qr/"memstat_uri" directive is duplicate/ ],
    [ main => 'memstat_uri on;', qr/"memstat_uri" directive is not allowed here/ ],

    [ main => 'memstat_hooks on;' ],
    [ http => 'memstat_hooks off;' ],
    [ main => 'memstat_hooks thread;' ],
    [ http => 'memstat_hooks pool slab lua thread;' ],
    [ main => 'memstat_hooks master;' ],
    [ http => 'memstat_hooks pool slab lua thread master;' ],
    [ main => 'memstat_hooks;', qr/invalid number of arguments in "memstat_hooks" directive/ ],
    [ http => 'memstat_hooks;', qr/invalid number of arguments in "memstat_hooks" directive/ ],
    [ main => 'memstat_hooks everything;', qr/invalid value "everything", $HOOKS/ ],
    [ http => 'memstat_hooks pool sla;', qr/invalid value "sla", $HOOKS/ ],
    [ http => 'memstat_hooks on pool;', qr/"on" cannot be combined, $HOOKS/ ],
    [ http => 'memstat_hooks pool off;', qr/"off" cannot be combined, $HOOKS/ ],
    [ http => 'memstat_hooks pool pool;', qr/duplicate value "pool", $HOOKS/ ],
    [ main => "memstat_hooks on;\nmemstat_hooks on;", qr/"memstat_hooks" directive is duplicate/ ],
    [ http => "memstat_hooks on;\nmemstat_hooks off;", qr/"memstat_hooks" directive is duplicate/ ],
    [ server => 'memstat_hooks on;',   qr/"memstat_hooks" directive is not allowed here/ ],
    [ location => 'memstat_hooks on;', qr/"memstat_hooks" directive is not allowed here/ ],
);

sub server_with {
    my ($place, $text) = @_;
    my %in = map { $_ => $_ eq $place ? $text : '' } qw(main http server location);
    return Test::Memstat::Server->new(
        main_config => $in{main},
        http_config => $in{http},
        config      => "$in{server}\nlocation /0 { memstat; }\nlocation /1 {\n$in{location}\n}",
    );
}

# Returns the line in the configuration of a case's last directive.
sub line_of {
    my ($t, $text) = @_;
    my ($last) = $text =~ /([^\n]*)\z/;
    my @lines = split /\n/, read_file($t->conf_path);
    my @found = grep { $lines[ $_ - 1 ] eq $last } 1 .. @lines;
    return $found[-1];
}

plan tests => @CASES + 3 + 10 + 2;

for my $case (@CASES) {
    my ($place, $text, $expected) = @$case;
    my $name = "$place: $text" =~ s/\n/ /gr;
    my $t = server_with($place, $text);
    my ($accepted, $said) = $t->check;
    if (!$expected) {
        ok $accepted, $name or diag $said;
        next;
    }
    my ($file, $line) = ($t->conf_path, line_of($t, $text));
    my $right = !$accepted && $said =~ /\[emerg\] .*$expected in \Q$file\E:$line$/m;
    ok $right, $name or diag "expected: $expected in $file:$line\n$said";
}

# The hooks are one setting for the whole server, in either context.
{
    my $t = Test::Memstat::Server->new(
        main_config => 'memstat_hooks on;', http_config => 'memstat_hooks on;',
        config => 'location / { memstat; }');
    my ($accepted, $said) = $t->check;
    ok !$accepted && $said =~ /"memstat_hooks" directive is duplicate/, 'hooks in both contexts'
        or diag $said;
}

# The size in the error is enough, and a kilobyte less is not.
{
    my $with = sub {
        my ($size) = @_;
        return Test::Memstat::Server->new(
            main_config => 'worker_processes 100;', http_config => "memstat_zone size=${size}k;",
            config => 'location / { memstat; }')->check;
    };
    my (undef, $said) = $with->(1);
    my ($needed) = $said =~ /at least size=(\d+)k/;
    my ($enough) = $with->($needed);
    my ($less)   = $with->($needed - 1);
    ok $enough, 'the size that is named is enough';
    ok !$less,  'less is not';
}

# A location that is open to every client is warned of, with its position, also when the configuration is
# only tested. A server that listens only on the loopback interface gets no warning.
for my $case (
    [ 1, '0.0.0.0', 'location / { memstat; }' ],
    [ 1, '[::]',    'location / { memstat; }' ],
    [ 1, '0.0.0.0', 'location /a { memstat; } location /b { memstat; deny all; }' ],
    [ 0, '0.0.0.0', 'location / { memstat; allow 127.0.0.1; deny all; }' ],
    [ 0, '0.0.0.0', "auth_basic closed;\nauth_basic_user_file users;\nlocation / { memstat; }" ],
    [ 0, '0.0.0.0', "deny all;\nlocation / { memstat; }" ],
    [ 0, '0.0.0.0', 'location / { internal; memstat; }' ],
    [ 0, '127.0.0.2', 'location / { memstat; }' ],
    [ 0, '[::1]',     'location / { memstat; }' ],
    [ 0, undef,       'location / { memstat; }' ],
) {
    my ($warned, $address, $config) = @$case;
    my $t = Test::Memstat::Server->new(
        config => (defined $address ? "listen $address:\$TEST_NGINX_PORT_1;\n" : '') . $config);
    my ($accepted, $said) = $t->check;
    my $place = $t->conf_path . ':' . line_of($t, $config);
    my @lines = grep { /^nginx: \[warn\] memstat: the location in \Q$place\E is open to every client/ } split /\n/, $said;
    my $name = ($address // 'loopback') . ": $config" =~ s/\n/ /gr;
    ok $accepted && @lines == $warned, $name or diag $said;
}

# The configuration in README.md works when it is pasted. Only the port and the folders of nginx's files are
# changed.
{
    my $repository = "$FindBin::Bin/..";
    my ($pasted)  = read_file("$repository/README.md") =~ /^```nginx\n(.*?)^```$/ms;
    my ($example) = read_file("$repository/nginx-conf/minimal.conf") =~ /^(load_module .*)/ms;
    is $pasted, $example, 'README has nginx-conf/minimal.conf';

    my $t = Test::Memstat::Server->new;
    my ($root, $port) = ($t->root, $t->port);
    mkdir "$root/modules";
    symlink $t->module, "$root/modules/ngx_http_memstat_module.so" or die "cannot link: $!\n";
    my $folders = join '', "access_log logs/access.log;\n",
        map { "${_}_temp_path temp_$_;\n" } qw(client_body proxy fastcgi uwsgi scgi);
    open my $conf, '>', $t->conf_path or die "cannot write: $!\n";
    print $conf "daemon off;\npid nginx.pid;\n", $pasted =~ s/:8080;/:$port;/r =~ s/^http \{\n/http {\n$folders/mr;
    close $conf or die "cannot write: $!\n";
    $t->start;
    my ($worker) = process_with($t->memstat, kind => 'worker');
    is $worker->{system}{resident}, sum(map { $_->{resident} } values %{ $worker->{breakdown} }),
        'nginx serves with it, and its entries add up';
    is $_, undef, 'nginx ends as told' for $t->stop;
}
